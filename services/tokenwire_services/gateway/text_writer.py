"""Deltas that go from the tokenizer's message straight to the client's connection.

A step's text of hundreds of streams is written in one loop: no task wakes, no layer is passed, and of each
event only the JSON text is made. It knows uvicorn's connection, and how it frames a body. While the client's
socket is full, or when it is gone, text is left to the response's task, which waits as it must.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def text_writer(send: Send, before: bytes, after: bytes) -> Callable[[str], bool] | None:
    """What writes text as it arrives, each time in one event, and returns whether it could.

    Args:
        send: the server's own, of a response whose head was sent.
        before, after: what stands around the JSON text in an event.

    Returns:
        None where the connection is not known.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding:
        return None
    flow, write, dumps = cycle.flow, cycle.transport.write, orjson.dumps
    num_constant, after = len(before) + len(after), after + b"\r\n"

    def write_text(text: str) -> bool:
        if flow.write_paused or cycle.disconnected:
            return False
        json = dumps(text)
        try:
            write(b"%x\r\n%b%b%b" % (num_constant + len(json), before, json, after))
        except RuntimeError:  # the connection is closed, which its protocol has not heard yet
            return False
        return True

    return write_text
