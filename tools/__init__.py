"""Developer tools: nothing here is installed with qednano."""
