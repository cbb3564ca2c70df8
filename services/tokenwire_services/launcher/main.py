"""The `tokenwire` command: one function a subcommand, each importing only what it runs.

Whatever is wrong with the options is one line on standard error and exit code 2; other exit codes are the
subcommand's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from tokenwire.address import authority, is_authority
from tokenwire_services.launcher.open_files import allow_many_files
from tokenwire_services.launcher.options import serve as in_serve
from tokenwire_services.launcher.options import shared
from tokenwire_services.launcher.options.engine import ENGINE
from tokenwire_services.launcher.options.gateway import GATEWAY
from tokenwire_services.launcher.options.process_options import takes
from tokenwire_services.launcher.options.tokenizer import TOKENIZER
from tokenwire_services.launcher.standard_streams import finish_output, open_standard_streams

app = typer.Typer(
    help="Serve large language models as microservices.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    open_standard_streams()
    allow_many_files()
    try:
        code = app(arguments, prog_name="tokenwire", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message(), error.exit_code)
    except BrokenPipeError:  # whoever read what was written wants no more
        code = 1
    except OSError as error:  # a disk that is full
        code = _refuse(str(error), 1)
    finish_output()
    return code if isinstance(code, int) else 0


def _refuse(reason: str, exit_code: int) -> int:
    print(f"tokenwire: {' '.join(reason.split())}", file=sys.stderr)
    return exit_code


class OptionError(typer.TyperException):
    """Options that contradict each other, or a value that only the process's configuration can judge."""

    exit_code = 2


@contextmanager
def _options() -> Iterator[None]:
    """Where a configuration is built: what it refuses is an option error."""
    try:
        yield
    except ValueError as error:
        raise OptionError(str(error)) from None


def _check_address(option: str, address: str) -> None:
    if not is_authority(address):
        raise OptionError(
            f"{option} is {address!r}; expected host:port, such as 127.0.0.1:50052 or [::1]:50052"
        )


@contextmanager
def _packages(process: str, extra: str, *imported_later: str) -> Iterator[None]:
    """Where a process's code is imported: a package that is missing is one of an extra."""
    try:
        yield
        for name in imported_later:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
    except ModuleNotFoundError as error:
        raise typer.TyperException(
            f"the {process} needs the Python package {error.name}; pip install 'tokenwire[{extra}]'"
        ) from None


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(f"tokenwire {version_of('tokenwire')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command()
@takes(in_serve.GATEWAY, in_serve.TOKENIZER, in_serve.ENGINE)
def serve(**values: Any) -> int:
    """Serve a model on this machine: engine, tokenizer and gateway as three supervised processes."""
    from tokenwire_services.launcher.serve import serve as run

    with _options():
        engine = in_serve.ENGINE.build(values)
        tokenizer = in_serve.TOKENIZER.build(values, engines=(authority(engine.host, engine.port),))
        gateway = in_serve.GATEWAY.build(values, tokenizer=authority(tokenizer.host, tokenizer.port))
    return run(engine, tokenizer, gateway)


@app.command()
@takes(ENGINE)
def engine(
    print_kernels: Annotated[
        bool, typer.Option("--print-kernels", help="Show what would compute the model here, and exit.")
    ] = False,
    parent_pid: shared.ParentPid = None,
    **values: Any,
) -> int:
    """Start an engine alone: token IDs in, token IDs out, over gRPC."""
    with _options():
        config = ENGINE.build(values)
    for_socket = () if config.session_socket is None else ("hpack",)
    with _packages("engine", "engine", "torch", "safetensors", *for_socket):
        from tokenwire_engine.server.main import print_kernels as show
        from tokenwire_engine.server.main import run

    return show(config) if print_kernels else run(config)


@app.command()
@takes(TOKENIZER)
def tokenizer(parent_pid: shared.ParentPid = None, **values: Any) -> int:
    """Start a tokenizer service alone: text in, text out, over gRPC."""
    with _options():
        config = TOKENIZER.build(values)
    with _packages("tokenizer", "services"):
        from tokenwire_services.tokenizer.main import run

    if config.workers > 1:
        from tokenwire_services.launcher.workers import run_workers

        return run_workers("tokenizer", config, {})
    return run(config)


@app.command()
@takes(GATEWAY)
def gateway(parent_pid: shared.ParentPid = None, **values: Any) -> int:
    """Start a gateway alone: the OpenAI-style HTTP API."""
    with _options():
        config = GATEWAY.build(values)
    with _packages("gateway", "services"):
        from tokenwire_services.gateway.main import run

    if config.workers > 1:
        from tokenwire_services.launcher.serve import API_KEY_VARIABLE
        from tokenwire_services.launcher.workers import run_workers

        keys = {API_KEY_VARIABLE: " ".join(config.api_keys) or None}
        return run_workers("gateway", config, keys)
    return run(config)


@app.command()
def chat(
    tokenizer: shared.Tokenizer = "127.0.0.1:50052",
    model: Annotated[str, typer.Option(help="Served model name. Left out: the only model.")] = "",
    system: Annotated[str, typer.Option(help="System message to begin with.")] = "",
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the most likely tokens of this mass.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample from this many tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens an answer has.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
) -> int:
    """Chat in the terminal, straight with a tokenizer service."""
    from tokenwire.options import ChatOptions
    from tokenwire_services.launcher.chat import chat as run

    _check_address("--tokenizer", tokenizer)
    options: ChatOptions = {"model": model}
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    if top_k is not None:
        options["top_k"] = top_k
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    return run(tokenizer, system, options)


@app.command()
def drain(
    engine: shared.Engine = "127.0.0.1:50051",
    timeout_s: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds for which requests may go on; then they are handed back, to be continued "
            "elsewhere. Left out: until they end.",
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Admit requests again.")] = False,
) -> int:
    """Let an engine admit no more requests, and wait until it has none."""
    from tokenwire_services.launcher.drain import drain as run

    _check_address("--engine", engine)
    return run(engine, timeout_s, undo)
