"""Models that ship with the source tree."""
