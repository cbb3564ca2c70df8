"""`tokenwire chat`: a conversation in the terminal, each answer shown as it is generated.

Lines come from the terminal, with editing and recall, or from a pipe, where only the answers are printed.
Ctrl-C ends the answer, not the program; what was said until then stays in the conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import tokenwire
from tokenwire.options import ChatOptions, Message

_PROMPT = "> "


def chat(tokenizer: str, system: str, options: ChatOptions) -> int:
    """Answer line after line until the input ends; the exit code: 1 if any answer failed."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    failed = False
    with tokenwire.Client(tokenizer) as client:
        for line in _lines():
            messages.append({"role": "user", "content": line})
            try:
                messages.append({"role": "assistant", "content": _answer(client, messages, options)})
            except tokenwire.TokenwireError as error:
                messages.pop()
                failed = True
                print(f"tokenwire chat: {error}", file=sys.stderr)
    return int(failed)


def _answer(client: tokenwire.Client, messages: list[Message], options: ChatOptions) -> str:
    """Print the answer as it comes; the whole of it, or what came before Ctrl-C."""
    said: list[str] = []
    try:
        with client.stream_chat(messages, **options) as stream:
            for delta in stream:
                said.append(delta.text)
                print(delta.text, end="", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        print(flush=True)
    return "".join(said)


def _lines() -> Iterator[str]:
    """Lines that were typed, or that come through a pipe; empty ones are skipped."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401  (gives `input` its editing and its history)

    while True:
        try:
            line = input(_PROMPT).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if line:
            yield line
