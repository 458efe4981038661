"""qednano: post-train a small model to write Olympiad proofs, on Kubernetes or on a laptop."""

__version__ = "0.1.0"
