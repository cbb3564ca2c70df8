"""A process's configuration as the command line that makes it, for `serve` to start the process with.

Only what differs from the default is said, so that `ps` shows what was asked for. Secrets are never said.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tokenwire_services.launcher.options.engine import ENGINE
from tokenwire_services.launcher.options.gateway import GATEWAY
from tokenwire_services.launcher.options.process_options import ProcessOptions
from tokenwire_services.launcher.options.tokenizer import TOKENIZER

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MODULE = "tokenwire_services.launcher"
_PROCESSES: dict[str, ProcessOptions[Any]] = {"engine": ENGINE, "tokenizer": TOKENIZER, "gateway": GATEWAY}
_UNSAID = {"model", "status_fd", "api_key", "api_key_file"}


def command_line(command: str, config: DataclassInstance) -> tuple[str, ...]:
    """Arguments for the Python interpreter that run `tokenwire <command>` with this configuration.

    The interpreter does not look for modules in the working directory (`-P`), where anything may lie.
    """
    model = getattr(config, "model", None)
    arguments = ["-P", "-m", _MODULE, command, *([] if model is None else [model])]
    process = _PROCESSES[command]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in process.options:
        value = getattr(config, process.field(name))
        if name in _UNSAID or value == defaults[process.field(name)]:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(option if value else "--no-" + option.removeprefix("--"))
            continue
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"{option}={each}" for each in values]
    return tuple(arguments)
