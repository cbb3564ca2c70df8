"""Operators on tensors: one definition each, several implementations."""
