"""A process's configuration as the command line that makes it, for `serve` to start the process with.

Only what differs from the default is said, so that `ps` shows what was asked for. Secrets are never said.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MODULE = "tokenwire_services.launcher"
_OPTION_OF_FIELD = {
    "engines": "--engine",
    "served_names": "--served-model-name",
    "cors_origins": "--cors-origin",
}
_UNSAID = {"model", "status_fd", "api_keys", "api_key_file"}


def command_line(command: str, config: DataclassInstance) -> tuple[str, ...]:
    """Arguments for the Python interpreter that run `tokenwire <command>` with this configuration.

    The interpreter does not look for modules in the working directory (`-P`), where anything may lie.
    """
    model = getattr(config, "model", None)
    arguments = ["-P", "-m", _MODULE, command, *([] if model is None else [model])]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _UNSAID or value == field.default:
            continue
        option = _OPTION_OF_FIELD.get(field.name, "--" + field.name.replace("_", "-"))
        if isinstance(value, bool):
            arguments.append(option if value else "--no-" + option.removeprefix("--"))
            continue
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"{option}={each}" for each in values]
    return tuple(arguments)
