"""Small real jobs, so that the local runner is tested on real processes."""
