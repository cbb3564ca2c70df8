"""Tokenwire's Python client, and the generated stubs at `tokenwire.v1`."""
