"""Everything a gateway process is told, once, at its start.

Built from the command line, validated here, immutable afterwards. The file of API keys is read here, so
that a running gateway's keys never change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tokenwire_services.process_address import ProcessAddress
from tokenwire_services.worker_ports import check_metrics_port

MAX_WORKERS = 128


@dataclass(slots=True, frozen=True)
class GatewayConfig:
    """Options of one gateway process.

    Raises:
        ValueError: on construction, naming the option, what it was, and what is allowed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """Port to listen on. 0: one that is free, which the status line names."""
    tokenizer: str = "127.0.0.1:50052"
    """Address of the tokenizer service: "host:port", with a comma and a Unix socket where the session goes
    there, or with those of all its workers."""
    api_keys: tuple[str, ...] = ()
    """Keys that requests must present; those of `api_key_file` are added. Empty: no key is asked for."""
    api_key_file: Path | None = None
    """File of keys, one a line; empty lines and lines that begin with # are skipped."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API; "*" allows all."""
    max_body_bytes: int = 16 << 20
    """Largest request body, in bytes."""
    request_timeout_s: float | None = None
    """Seconds after which an unfinished request is cancelled. None: never."""
    failover_timeout_s: float = 30.0
    """Seconds for which requests wait for a tokenizer service when theirs was lost, before they fail."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where Prometheus finds this process's metrics beside its `port`, which workers share. None: nowhere."""
    access_log: bool = False
    """Write a line to standard output for each HTTP request."""
    workers: int = 1
    """Processes that share the port."""
    reuse_port: bool = False
    """Whether this process shares its port with others."""
    status_fd: int | None = None
    """File descriptor on which start-up progress is written, one JSON object a line."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"--workers is {self.workers}; expected 1 to {MAX_WORKERS}")
        if self.workers > 1 and self.port == 0:
            raise ValueError("--workers share a port, so --port must be one; it is 0")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port is {self.port}; expected 0 to 65535")
        if self.metrics_port is not None:
            check_metrics_port(self.metrics_port, self.workers)
        _ = self.tokenizer_address
        if self.max_body_bytes < 1:
            raise ValueError(f"--max-body-bytes is {self.max_body_bytes}; expected at least 1")
        if self.request_timeout_s is not None and not self.request_timeout_s > 0:
            raise ValueError(f"--request-timeout-s is {self.request_timeout_s}; expected more than 0")
        if not 0 <= self.failover_timeout_s < 86_400:
            raise ValueError(
                f"--failover-timeout-s is {self.failover_timeout_s:g}; expected 0 to a day (86400)"
            )
        for origin in self.cors_origins:
            if origin != "*" and ("://" not in origin or origin.endswith("/")):
                raise ValueError(
                    f"--cors-origin is {origin!r}; expected * or one such as https://example.com"
                )
        keys = [*self.api_keys, *_keys_in(self.api_key_file)]
        for number, key in enumerate(keys, start=1):
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"API key number {number} is not printable ASCII without spaces")
        object.__setattr__(self, "api_keys", tuple(dict.fromkeys(keys)))

    def worker(self, index: int) -> GatewayConfig:
        """What one of several workers is told: each prefers another worker of the tokenizer service."""
        port, *sockets = self.tokenizer.split(",")
        first = index % max(1, len(sockets))
        tokenizer = ",".join([port, *sockets[first:], *sockets[:first]])
        metrics_port = None if self.metrics_port is None else self.metrics_port + index
        return replace(self, workers=1, reuse_port=True, tokenizer=tokenizer, metrics_port=metrics_port)

    @property
    def tokenizer_address(self) -> ProcessAddress:
        """The tokenizer service's address, read."""
        return ProcessAddress.parse(self.tokenizer, "--tokenizer")


def _keys_in(path: Path | None) -> list[str]:
    """The keys that a file holds, at least one: an empty file must not leave the gateway open to all."""
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--api-key-file {path} cannot be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"--api-key-file {path} holds no key; expected one a line")
    return keys
