"""A Hugging Face checkpoint directory: its JSON files, and where each tensor lies.

Only safetensors files are read: a pickle executes whatever it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """A directory with a config.json and safetensors files."""

    directory: Path
    config: ConfigFile
    generation_config: Mapping[str, Any]
    """generation_config.json, empty where there is none."""

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights.

        Raises:
            ModelError: there are none, or one that the index names is missing or lies elsewhere.
        """
        index = self.directory / INDEX
        if index.is_file():
            weight_map = _read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ModelError(f"{index} has no weight_map")
            for name in weight_map.values():
                if not isinstance(name, str) or not name or Path(name).name != name:
                    raise ModelError(f"{index} names the file {name!r}; expected one in the same directory")
            files = [self.directory / name for name in sorted(set(weight_map.values()))]
        else:
            files = [self.directory / SINGLE]
        missing = [file for file in files if not file.is_file()]
        if not missing:
            return files
        if index.is_file():
            raise ModelError(f"{missing[0]} is missing, which {INDEX} names; download the checkpoint again")
        if any(self.directory.glob("*.bin")):
            raise ModelError(
                f"{self.directory} holds its weights as pickled .bin files, which are never read since they "
                "can execute code; convert them to safetensors"
            )
        raise ModelError(f"{self.directory} has neither {SINGLE} nor {INDEX}")

    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation: generation_config.json's, else config.json's.

        Raises:
            ModelError: they are not token IDs.
        """
        eos = self.generation_config.get("eos_token_id")
        if eos is None:
            eos = self.config.fields.get("eos_token_id")
        if eos is None:
            return ()
        token_ids = tuple(eos) if isinstance(eos, list) else (eos,)
        for token_id in token_ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 2**32:
                raise ModelError(f"{self.directory} has eos_token_id = {eos!r}; expected token IDs")
        return token_ids


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint directory's JSON files.

    Raises:
        ModelError: there is no config.json, or a file is not a JSON object.
    """
    config = directory / "config.json"
    if not config.is_file():
        raise ModelError(f"{directory} has no config.json; expected a Hugging Face checkpoint directory")
    generation_config = directory / "generation_config.json"
    return Checkpoint(
        directory=directory,
        config=ConfigFile(_read_json(config)),
        generation_config=_read_json(generation_config) if generation_config.is_file() else {},
    )


@dataclass(slots=True, frozen=True)
class StoredTensor:
    """A tensor in a file that is mapped into memory, not read."""

    file: Path
    opened: Any
    """The `safe_open` handle."""
    shape: tuple[int, ...]


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Map the files into memory and list what they hold.

    Raises:
        ModelError: a file cannot be read as safetensors.
    """
    return {name: tensor for file in files for name, tensor in _tensors_of(file)}


def _tensors_of(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        opened: Any = safe_open(file, framework="pt", device="cpu")
        for name in opened.keys():  # noqa: SIM118 (not a dict: it has no iterator)
            yield name, StoredTensor(file, opened, tuple(opened.get_slice(name).get_shape()))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read as safetensors: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a JSON {type(content).__name__}; expected an object")
    return content
