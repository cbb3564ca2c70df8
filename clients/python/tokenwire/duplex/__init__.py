"""Sessions with another process: one gRPC call on a connection of its own, in the event loop alone."""
