"""The `tokenwire` command: starts each process alone, or all three together under supervision."""
