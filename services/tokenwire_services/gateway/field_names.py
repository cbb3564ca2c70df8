"""What a field of the tokenizer's protocol is called in the JSON that people send.

An error from below names the field at fault by its path in the protobuf message; people need the name they
used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Endpoint = Literal["chat", "completions", "tokenize", "detokenize"]

_Names = tuple[tuple[str, str], ...]

_CHAT: _Names = (
    ("chat.template_kwargs_json", "chat_template_kwargs"),
    ("chat.messages", "messages"),
    ("chat.", ""),
    ("chat", "messages"),
)
_RENAMED: dict[Endpoint, _Names] = {
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
_RESPONSE_FORMAT: _Names = (
    ("constraint.json_schema", "response_format.json_schema"),
    ("constraint.json_object", "response_format"),
    ("constraint", "response_format"),
)
_STRUCTURED_OUTPUTS: _Names = (
    ("constraint.json_schema", "structured_outputs.json"),
    ("constraint", "structured_outputs"),
)
_RENAMED_EVERYWHERE: _Names = (
    ("stop_strings", "stop"),
    ("include_stop_string", "include_stop_str_in_output"),
    ("truncation.max_tokens", "truncate_prompt_tokens"),
    ("sampling.num_samples", "n"),
    ("logprobs.num_prompt_logprobs", "prompt_logprobs"),
    ("sampling.", ""),
    ("stop.", ""),
    ("context.", ""),
)
_RENAMED_WITHIN: _Names = (
    (".content_parts[", ".content["),
    (".arguments_json", ".function.arguments"),
    (".parameters_json", ".function.parameters"),
)


@dataclass(slots=True, frozen=True)
class FieldNames:
    """The names in one request to an endpoint."""

    endpoint: Endpoint
    uses_structured_outputs: bool = False
    """Whether its constraint came by that name, rather than as a `response_format`."""

    def json_path(self, path: str) -> str:
        """The JSON name of a field of the protobuf request, such as "top_p" for "sampling.top_p"."""
        constraint = _STRUCTURED_OUTPUTS if self.uses_structured_outputs else _RESPONSE_FORMAT
        for prefix, name in (*_RENAMED[self.endpoint], *constraint, *_RENAMED_EVERYWHERE):
            if _is_prefix(prefix, path):
                path = name + path.removeprefix(prefix)
                break
        for part, name in _RENAMED_WITHIN:
            path = path.replace(part, name)
        return path


def _is_prefix(prefix: str, path: str) -> bool:
    """Whether a path begins with whole components, as "chat" begins "chat[0]" and not "chats"."""
    rest = path.removeprefix(prefix)
    return path.startswith(prefix) and (prefix.endswith(".") or rest[:1] in ("", ".", "["))
