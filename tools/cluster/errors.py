"""The one error a person sees from the cluster tool."""


class ClusterError(Exception):
    """One clear sentence: what failed, where, and what to do."""
