"""Tokenwire's text and HTTP services, and the `tokenwire` command."""
