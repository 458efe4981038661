"""A real one-node Kubernetes for tests and demos, from Debian's packages alone; start reading at __main__.py."""
