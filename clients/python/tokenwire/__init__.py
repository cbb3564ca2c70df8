"""Tokenwire's Python client, and the generated stubs at `tokenwire.v1`.

Everything public is here: `tokenwire.Client`, `tokenwire.AsyncClient`, what they return and what they raise.
The names load on first use, so that a server that needs only the stubs does not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwire.aio import AsyncClient as AsyncClient
    from tokenwire.aio import AsyncStream as AsyncStream
    from tokenwire.client import Client as Client
    from tokenwire.client import Stream as Stream
    from tokenwire.errors import (
        CancelledError as CancelledError,
    )
    from tokenwire.errors import (
        DeadlineExceededError as DeadlineExceededError,
    )
    from tokenwire.errors import (
        InternalError as InternalError,
    )
    from tokenwire.errors import (
        InvalidRequestError as InvalidRequestError,
    )
    from tokenwire.errors import (
        NotFoundError as NotFoundError,
    )
    from tokenwire.errors import (
        OverloadedError as OverloadedError,
    )
    from tokenwire.errors import (
        TokenwireError as TokenwireError,
    )
    from tokenwire.errors import (
        UnavailableError as UnavailableError,
    )
    from tokenwire.errors import (
        UnsupportedError as UnsupportedError,
    )
    from tokenwire.options import Message as Message
    from tokenwire.options import Tool as Tool
    from tokenwire.results import (
        Delta as Delta,
    )
    from tokenwire.results import (
        FinishReason as FinishReason,
    )
    from tokenwire.results import (
        Generation as Generation,
    )
    from tokenwire.results import (
        ModelCard as ModelCard,
    )
    from tokenwire.results import (
        ToolCall as ToolCall,
    )
    from tokenwire.results import (
        ToolCallDelta as ToolCallDelta,
    )
    from tokenwire.results import (
        Usage as Usage,
    )

_MODULES = {
    "aio": ("AsyncClient", "AsyncStream"),
    "client": ("Client", "Stream"),
    "errors": (
        "CancelledError",
        "DeadlineExceededError",
        "InternalError",
        "InvalidRequestError",
        "NotFoundError",
        "OverloadedError",
        "TokenwireError",
        "UnavailableError",
        "UnsupportedError",
    ),
    "options": ("Message", "Tool"),
    "results": ("Delta", "FinishReason", "Generation", "ModelCard", "ToolCall", "ToolCallDelta", "Usage"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
