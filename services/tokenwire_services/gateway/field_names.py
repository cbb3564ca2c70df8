"""What a field of the tokenizer's protocol is called in the JSON that people send.

An error from below names the field at fault by its path in the protobuf message; people need the name they
used.
"""

from __future__ import annotations

from typing import Literal

Endpoint = Literal["chat", "completions", "tokenize", "detokenize"]

_CHAT = (
    ("chat.template_kwargs_json", "chat_template_kwargs"),
    ("chat.messages", "messages"),
    ("chat.", ""),
    ("chat", "messages"),
)
_RENAMED: dict[Endpoint, tuple[tuple[str, str], ...]] = {
    # The first prefix that fits is replaced.
    "chat": (
        *_CHAT,
        ("logprobs.num_logprobs", "top_logprobs"),
        ("prompt_token_ids", "messages"),
        ("prompt", "messages"),
    ),
    "completions": (
        ("token_ids.ids", "prompt"),
        ("token_ids", "prompt"),
        ("logprobs.num_logprobs", "logprobs"),
        ("prompt_token_ids", "prompt"),
        ("text", "prompt"),
    ),
    "tokenize": (*_CHAT, ("text", "prompt")),
    "detokenize": (("token_ids", "tokens"),),
}
_RENAMED_EVERYWHERE = (
    ("stop_strings", "stop"),
    ("include_stop_string", "include_stop_str_in_output"),
    ("constraint.json_schema", "response_format.json_schema"),
    ("constraint.json_object", "response_format"),
    ("constraint.", "structured_outputs."),
    ("constraint", "response_format"),
    ("sampling.num_samples", "n"),
    ("logprobs.num_prompt_logprobs", "prompt_logprobs"),
    ("sampling.", ""),
    ("stop.", ""),
    ("context.", ""),
)


def json_path(path: str, endpoint: Endpoint) -> str:
    """The JSON name of a field of the endpoint's protobuf request, such as "top_p" for "sampling.top_p"."""
    for prefix, name in (*_RENAMED[endpoint], *_RENAMED_EVERYWHERE):
        if _is_prefix(prefix, path):
            return name + path.removeprefix(prefix)
    return path


def _is_prefix(prefix: str, path: str) -> bool:
    """Whether a path begins with whole components, as "chat" begins "chat[0]" and not "chats"."""
    rest = path.removeprefix(prefix)
    return path.startswith(prefix) and (prefix.endswith(".") or rest[:1] in ("", ".", "["))
