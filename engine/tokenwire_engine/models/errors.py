"""What is raised when a checkpoint cannot be served."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be loaded or does not fit: one line that says what, why, and what to do."""
