"""One small file per model family, and the registry that finds the one for a checkpoint."""
