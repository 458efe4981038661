"""The commands that are more than a few lines, one a file. Their imports that cost time happen when they are called."""
