"""The Kubernetes operator of qednano: kopf as the informer, one pure planner, server-side apply."""
