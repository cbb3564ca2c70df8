"""The model that an engine serves, as far as text is concerned: tokenizer, chat template, limits.

Everything comes from the engine over gRPC and stays in memory; nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_services.tokenizer.control_tokens import ControlTokens
from tokenwire_services.tokenizer.token_bytes import TokenBytes
from tokenwire_services.tokenizer.whole_tokens import WholeTokens

log = logging.getLogger(__name__)

MAX_FILES = 64
MAX_FILES_BYTES = 512 << 20

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ModelFilesError(Exception):
    """The engine's tokenizer files cannot be served; says what is supported."""


@dataclass(slots=True, frozen=True)
class Model:
    """One served model."""

    info: engine_pb2.GetModelResponse
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    chat_template_problem: str
    """Why there is no chat template."""
    fingerprint: bytes
    """The same for engines that serve the same model: a request may go on at another one of them."""
    token_bytes: TokenBytes
    whole_tokens: WholeTokens
    control_tokens: ControlTokens
    special_tokens: Mapping[str, str]
    """"bos_token", "eos_token", ... as text."""
    added_tokens: Mapping[str, int]
    """By text: the tokens that are looked for before a text is split up, control tokens among them."""
    special_token_ids: Mapping[str, int]
    """Those of them that decoding leaves out, unless it is told not to."""


async def fetch_files(stub: engine_pb2_grpc.EngineAsyncStub, timeout_s: float) -> dict[str, bytes]:
    """The engine's tokenizer files by name.

    Raises:
        ModelFilesError: they are larger, or more, than a tokenizer's files can be.
        grpc.aio.AioRpcError: the engine failed.
    """
    files: dict[str, bytearray] = {}
    size = 0
    request = engine_pb2.GetTokenizerFilesRequest()
    async for piece in stub.GetTokenizerFiles(request, timeout=timeout_s):
        files.setdefault(piece.name, bytearray()).extend(piece.data)
        size += len(piece.data)
        if size > MAX_FILES_BYTES or len(files) > MAX_FILES:
            raise ModelFilesError(
                f"the engine sent {len(files)} tokenizer files of {size} bytes and more; "
                f"at most {MAX_FILES} files of {MAX_FILES_BYTES} bytes together are read"
            )
    return {name: bytes(data) for name, data in files.items()}


def load_model(info: engine_pb2.GetModelResponse, files: Mapping[str, bytes]) -> Model:
    """Build a model from its tokenizer files. Takes a second for a large vocabulary.

    Raises:
        ModelFilesError: there is no tokenizer.json, or a file cannot be read.
    """
    if "tokenizer.json" not in files:
        raise ModelFilesError(
            f"the model has no tokenizer.json (it has: {', '.join(sorted(files)) or 'no tokenizer files'}); "
            "only the tokenizer.json format of Hugging Face is supported, convert the tokenizer with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # the binding raises its errors as plain Exception
        raise ModelFilesError(f"tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _read_object(files, "tokenizer_config.json")
    special_tokens = _special_tokens(_read_object(files, "special_tokens_map.json") | config)
    source = _template_source(files, config)
    template, problem = None, "the model has no chat template; send text instead of messages"
    if source:
        try:
            template = ChatTemplate(source, special_tokens)
        except ChatTemplateError as error:
            problem = f"the model's chat template cannot be used: {error}"
            log.warning("%s", problem)
    added = tokenizer.get_added_tokens_decoder()
    return Model(
        info,
        tokenizer,
        template,
        problem,
        fingerprint(info, files),
        TokenBytes(tokenizer),
        WholeTokens(tokenizer),
        ControlTokens(tokenizer, [source] if isinstance(source, str) else source.values()),
        special_tokens,
        {token.content: token_id for token_id, token in added.items()},
        {token.content: token_id for token_id, token in added.items() if token.special},
    )


def fingerprint(info: engine_pb2.GetModelResponse, files: Mapping[str, bytes]) -> bytes:
    """A digest of what tells one model from another, whichever engine serves it, and by whatever name."""
    parts = [info.architecture.encode(), str(info.vocab_size).encode(), str(info.num_parameters).encode()]
    for name in sorted(files):
        parts += [name.encode(), files[name]]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()


def _read_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise ModelFilesError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFilesError(f"{name} holds a JSON {type(value).__name__}; expected an object")
    return value


def _template_source(files: Mapping[str, bytes], config: Mapping[str, Any]) -> str | dict[str, str]:
    """chat_template.jinja, or the tokenizer_config.json's template or named templates; "" for none."""
    if "chat_template.jinja" in files:
        try:
            return files["chat_template.jinja"].decode()
        except UnicodeDecodeError as error:
            raise ModelFilesError(f"chat_template.jinja is not UTF-8: {error}") from error
    match config.get("chat_template") or "":
        case str(source):
            return source
        case list(entries):
            named = {}
            for entry in entries:
                match entry:
                    case {"name": str(name), "template": str(template)}:
                        named[name] = template
            if len(named) == len(entries):
                return named
    raise ModelFilesError(
        "tokenizer_config.json: chat_template is neither a string nor a list of {name, template}, of texts"
    )


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens as text; each is a string or an object with the string as its `content`."""
    tokens = {}
    for name in _SPECIAL_TOKENS:
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    return tokens
