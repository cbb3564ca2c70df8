"""Checkpoints of random weights on disk, for what starts from a directory: made on the device, and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu.models import CONFIGS, RandomWeights
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.decoder import load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.weights.reader import Piece
from tokenwire_kernels import select_kernels

CACHE = Path("build/bench-gpu")
FILE_BYTES = 4 << 30
"""Of each safetensors file, about."""


def write_checkpoint(name: str, device: torch.device) -> Path:
    """Directory of a checkpoint of one of `CONFIGS`, with a tokenizer; what is there is used again.

    Raises:
        OSError: there is no room for it.
    """
    directory = CACHE / name
    if (directory / "config.json").exists():
        return directory
    config = CONFIGS[name]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    writer = _Writer(directory, device, getattr(torch, config["dtype"]))
    _, architecture = read_architecture(ConfigFile(config))
    load_decoder(writer, architecture, 16, select_kernels(device, "torch"), Shard())
    writer.close()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the memory is for the processes that start from the checkpoint
    _write_tokenizer(directory, config["vocab_size"])
    (directory / "config.json").write_text(json.dumps(config))  # last: the checkpoint is whole
    return directory


class _Writer(RandomWeights):
    """Writes every parameter that a decoder asks for."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype)
        self._directory = directory
        self._unwritten: dict[str, Tensor] = {}
        self._bytes = 0
        self._files: dict[str, str] = {}

    def read(self, *pieces: Piece) -> Tensor:
        parameter = super().read(*pieces)
        sizes = [piece.shape[0] for piece in pieces]
        for piece, part in zip(pieces, torch.split(parameter, sizes), strict=True):
            self._unwritten[piece.name] = part.cpu().contiguous()
        self._bytes += parameter.nbytes
        if self._bytes >= FILE_BYTES:
            self._flush()
        return parameter

    def close(self) -> None:
        self._flush()
        index = {"metadata": {}, "weight_map": self._files}
        (self._directory / "model.safetensors.index.json").write_text(json.dumps(index))

    def _flush(self) -> None:
        if not self._unwritten:
            return
        file = f"model-{len(set(self._files.values())):05}.safetensors"
        save_file(self._unwritten, self._directory / file, metadata={"format": "pt"})
        self._files |= dict.fromkeys(self._unwritten, file)
        self._unwritten, self._bytes = {}, 0


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte-level tokenizer that has text for every token of the model: bytes, then made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"Ġw{index}" for index in range(vocab_size - len(alphabet)))][:vocab_size]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"})
    )
