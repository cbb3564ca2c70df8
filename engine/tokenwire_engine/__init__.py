"""The Tokenwire engine: token IDs in, token IDs out."""
