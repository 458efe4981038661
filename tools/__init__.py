"""Tools for people who work on qednano: the local cluster, locks, Helm. Nothing here is shipped."""
