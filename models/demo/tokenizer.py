"""The demo model's tokenizer: a byte-level BPE of 4096 tokens, and its chat template.

Any text survives encoding and decoding. A digit is always a token of its own, so that numbers have one
spelling; a capitalised word never joins with the space before it, so that a name is the same tokens in a
question and between the quotes of a JSON string, and copying it is copying tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.demo.corpus import Conversation

VOCAB_SIZE = 4096
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

_PIECES = Regex(
    r"\p{N}"  # a digit
    r"|'(?:s|t|re|ve|ll|d|m)(?!\p{L})"  # the end of a contraction
    r"| ?[\p{Ll}\p{M}]+"  # a lower-case word and the space before it
    r"|\p{Lu}[\p{Ll}\p{M}]+"  # a capitalised word
    r"|\p{Lu}+(?![\p{Ll}\p{M}])"  # an upper-case word
    r"|[\p{L}\p{M}]+"  # other scripts
    r"| ?[^\s\p{L}\p{M}\p{N}]+"  # punctuation
    r"|\s"
)

CHAT_TEMPLATE = """\
{%- if messages and messages[0].role in ('system', 'developer') %}
    {%- set system = messages[0].content %}
{%- endif %}
{%- if system or tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if system %}
        {{- system }}
    {%- endif %}
    {%- if tools %}
        {%- if system %}
            {{- '\\n\\n' }}
        {%- endif %}
        {{- '# Tools\\n<tools>' }}
        {%- for tool in tools %}
            {{- '\\n' + tool | tojson }}
        {%- endfor %}
        {{- '\\n</tools>\\nA call is JSON between tags:\\n<tool_call>\\n' }}
        {{- '{"name": ..., "arguments": {...}}\\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif not (loop.first and message.role in ('system', 'developer')) %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function or call %}
            {%- if message.content or not loop.first %}
                {{- '\\n' }}
            {%- endif %}
            {{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
            {%- if function.arguments is string %}
                {{- function.arguments }}
            {%- else %}
                {{- function.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(conversations: Iterable[Conversation]) -> Tokenizer:
    """A tokenizer whose merges are learned from the rendered conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, TURN_START, TURN_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(_MARKERS),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    markers = re.compile("|".join(map(re.escape, (*special, *_MARKERS))))  # they must not shape the merges
    texts = (markers.sub("\n", render(conversation)) for conversation in conversations)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in _MARKERS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """Write the tokenizer and the chat template as Hugging Face files; `context` is in tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary has."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}; train it again")
    return found


def render(conversation: Conversation) -> str:
    """The text of a conversation as the model sees it; plain text ends with the end-of-text token."""
    if not conversation.messages:
        return conversation.text + END_OF_TEXT
    return chat_template().render(
        messages=conversation.messages, tools=conversation.tools, add_generation_prompt=False
    )


@cache
def chat_template() -> jinja2.Template:
    """The chat template, compiled with the settings that Hugging Face uses."""
    extensions: list[type[Extension] | str] = ["jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    return environment.from_string(CHAT_TEMPLATE)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
