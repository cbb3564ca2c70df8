"""Model families as data, and the decoder that any of them is assembled into."""
