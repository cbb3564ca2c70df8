"""Everything a tokenizer process is told, once, at its start.

Built from the command line, validated here, immutable afterwards. Light to import.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenwire.duplex.unix import check_socket
from tokenwire_services.process_address import ProcessAddress
from tokenwire_services.worker_ports import check_metrics_port

TOOL_PARSERS = ("harmony", "deepseek", "mistral", "hermes", "pythonic", "llama3_json")
REASONING_PARSERS = ("think", "harmony")

MAX_WORKERS = 128


@dataclass(slots=True, frozen=True)
class TokenizerConfig:
    """Options of one tokenizer process.

    Raises:
        ValueError: on construction, naming the option, what it was, and what is allowed.
    """

    engines: tuple[str, ...] = ("127.0.0.1:50051",)
    """Addresses of the engines, each "host:port", with a comma and a Unix socket where sessions go there."""
    host: str = "127.0.0.1"
    port: int = 50052
    """0: any free port; the ready line on `status_fd` says which."""
    session_socket: str | None = None
    """Unix socket that sessions may be opened at, too: a path, or "@" and a name. None: there is none. Of
    several workers each has its own, by this name and its number."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where Prometheus finds the service's metrics. None: they are not served; 0: any free port."""
    max_prompt_bytes: int = 8 << 20
    """Longest prompt text, in UTF-8 bytes, after the chat template."""
    max_message_bytes: int = 32 << 20
    """Longest gRPC message that is read."""
    max_backlog_bytes: int = 64 << 20
    """Text that may wait for one peer that reads too slowly; past it the peer's stream is ended."""
    session_grace_s: float = 10.0
    """Longest that a peer whose connection broke may come back to its session. 0: not at all."""
    failover_timeout_s: float = 30.0
    """How long requests in flight wait for an engine when theirs was lost; then they fail. 0: not at all."""
    trust_request_chat_template: bool = False
    """Whether requests may bring chat templates of their own."""
    tool_parser: str = "auto"
    """How the model writes tool calls: `auto` (by its chat template), `none` or a parser's name."""
    reasoning_parser: str = "auto"
    """How the model writes what it thinks: the same."""
    workers: int = 1
    """Processes that share the port."""
    reuse_port: bool = False
    """Whether this process shares its port with others."""
    status_fd: int | None = None
    """File descriptor on which start-up progress is written, one JSON object a line."""

    def __post_init__(self) -> None:
        if not self.engines:
            raise ValueError("--engine is missing; expected an engine's host:port")
        addresses = self.engine_addresses
        ports, places = ({each.authority for each in addresses}, {each.sessions for each in addresses})
        if any(len(address.sessions) > 1 for address in addresses):
            raise ValueError(f"--engine names several sockets of one engine: {', '.join(self.engines)}")
        if min(len(ports), len(places)) < len(addresses):
            raise ValueError(f"--engine names an engine twice: {', '.join(self.engines)}")
        for option, name, names in (
            ("--tool-parser", self.tool_parser, TOOL_PARSERS),
            ("--reasoning-parser", self.reasoning_parser, REASONING_PARSERS),
        ):
            if name not in ("auto", "none", *names):
                raise ValueError(f"{option} is {name!r}; expected auto, none, {', '.join(names)}")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"--workers is {self.workers}; expected 1 to {MAX_WORKERS}")
        if self.workers > 1 and self.port == 0:
            raise ValueError("--workers share a port, so --port must be one; it is 0")
        for socket in self.session_sockets:
            check_socket("--session-socket", socket)
        if not 0 <= self.port < 65536:
            raise ValueError(f"--port is {self.port}; expected 0 to 65535")
        if self.metrics_port is not None:
            check_metrics_port(self.metrics_port, self.workers)
        for option, seconds in (
            ("--session-grace-s", self.session_grace_s),
            ("--failover-timeout-s", self.failover_timeout_s),
        ):
            if not 0 <= seconds < 86_400:
                raise ValueError(f"{option} is {seconds:g}; expected 0 to a day (86400)")
        for name, value in (
            ("max_prompt_bytes", self.max_prompt_bytes),
            ("max_message_bytes", self.max_message_bytes),
            ("max_backlog_bytes", self.max_backlog_bytes),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")

    def worker(self, index: int) -> TokenizerConfig:
        """What one of several workers is told."""
        return replace(
            self,
            workers=1,
            reuse_port=True,
            metrics_port=None if self.metrics_port is None else self.metrics_port + index,
            session_socket=self.session_sockets[index] if self.session_sockets else None,
        )

    @property
    def session_sockets(self) -> tuple[str, ...]:
        """Of each of the workers; none where there is no socket."""
        if self.session_socket is None or self.workers == 1:
            return () if self.session_socket is None else (self.session_socket,)
        return tuple(f"{self.session_socket}-{index}" for index in range(self.workers))

    @property
    def engine_addresses(self) -> tuple[ProcessAddress, ...]:
        """The engines' addresses, read."""
        return tuple(ProcessAddress.parse(address, "--engine") for address in self.engines)
