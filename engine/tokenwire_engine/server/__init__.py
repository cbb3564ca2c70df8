"""The engine's gRPC surface."""
