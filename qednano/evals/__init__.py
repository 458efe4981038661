"""Evaluation: benchmarks, test-time scaffolds (one file each), statistics, and the report."""
