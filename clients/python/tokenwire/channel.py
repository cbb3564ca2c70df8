"""How the clients connect."""

from __future__ import annotations

DIRECT = ("grpc.enable_http_proxy", 0)
"""Connections within a private network do not go through the proxy that `http_proxy` names for the web."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    DIRECT,
    # A server that restarts is found again within seconds, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Answers are as long as the server makes them.
    ("grpc.max_receive_message_length", -1),
)
