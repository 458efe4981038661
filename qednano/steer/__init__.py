"""Look at runs and steer them, wherever they are: one set of words for a laptop's root and for a cluster."""
