"""Which physical blocks hold whose tokens."""
