"""Turning the model's own syntax back into structure."""
