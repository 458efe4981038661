"""What a pod runs: each module parses its configuration, calls the library and reports."""
