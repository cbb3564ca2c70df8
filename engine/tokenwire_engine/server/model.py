"""What is served, and the files that a tokenizer needs for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.runner.base import ModelInfo
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.structured.compiler import GrammarCompiler

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
    "config.json",
)
"""What a tokenizer may need of a Hugging Face checkpoint; those that exist are sent, in this order."""

PIECE_BYTES = 1 << 20
"""Most bytes of a file in one message."""


@dataclass(slots=True, frozen=True)
class ServedModel:
    """The loaded model, as requests see it."""

    info: ModelInfo
    names: tuple[str, ...]
    """Names that requests may use; the first is the primary one."""
    max_running: int
    max_requests: int
    """Most that run or wait, each sample counted."""
    instance_id: str
    """Random identity of this process."""
    created_unix_s: int
    policy: str = "fcfs"
    """Who is served first."""
    grammars: GrammarCompiler | None = None
    """What makes grammars of constraints. None: requests cannot have any."""

    def to_proto(self) -> engine_pb2.GetModelResponse:
        """The answer to GetModel."""
        info = self.info
        return engine_pb2.GetModelResponse(
            served_names=self.names,
            architecture=info.architecture,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            dtype=info.dtype,
            kv_cache_dtype=info.kv_cache_dtype,
            device=info.device,
            kv_block_size=info.block_size,
            num_kv_blocks=info.num_blocks,
            max_running=self.max_running,
            max_requests=self.max_requests,
            instance_id=self.instance_id,
            default_sampling=_sampling_to_proto(info.default_sampling),
            num_parameters=info.num_parameters,
            created_unix_s=self.created_unix_s,
        )


def tokenizer_files(checkpoint: Path) -> Iterator[engine_pb2.GetTokenizerFilesResponse]:
    """The checkpoint's tokenizer files in pieces of at most `PIECE_BYTES`; an empty file is one empty piece.
    Reads the disk: not for the event loop.

    Raises:
        OSError: when a file that is there cannot be read.
    """
    for name in TOKENIZER_FILES:
        path = checkpoint / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            piece = file.read(PIECE_BYTES)
            while True:
                yield engine_pb2.GetTokenizerFilesResponse(name=name, data=piece)
                piece = file.read(PIECE_BYTES)
                if not piece:
                    break


def _sampling_to_proto(sampling: SamplingParams) -> generation_pb2.SamplingParams:
    return generation_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )
