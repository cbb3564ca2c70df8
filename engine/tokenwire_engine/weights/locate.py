"""Where a model's checkpoint lies on this machine: bundled, local, or fetched from the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenwire_engine.models.errors import ModelError

DEMO_NAME = "tokenwire-demo"
DEMO_PLACES = (
    Path(__file__).parents[1] / "demo",  # in an installed wheel
    Path(__file__).parents[3] / "models" / "demo" / "checkpoint",  # in a source tree
)
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Files of a hub repository that are downloaded: weights, configs and whatever a tokenizer may be made of."""
UNWANTED = ("original/*", "consolidated*", "onnx/*")
"""The same weights over again, in other layouts."""
_LONGEST_QUOTE = 100


@dataclass(slots=True, frozen=True)
class Located:
    """A checkpoint directory, and the name that the model goes by."""

    directory: Path
    name: str


def locate(model: str | None) -> Located:
    """Find a checkpoint, downloading it if it is a hub id that is not cached yet.

    The hub's own settings apply (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, its progress bars).

    Args:
        model: a directory, a hub id ("owner/name"), or None for the bundled demo model.

    Raises:
        ModelError: there is no such directory or repository, or it cannot be reached.
    """
    if model is None:
        for place in DEMO_PLACES:
            if (place / "config.json").is_file():
                return Located(place, DEMO_NAME)
        raise ModelError(
            "this installation lacks the bundled demo model; name a checkpoint directory or hub id"
        )
    try:
        directory = Path(model).expanduser()
        is_directory, exists = directory.is_dir(), directory.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise ModelError(f"{model[:_LONGEST_QUOTE]} is no directory: {_one_line(error)}") from error
    if is_directory:
        return Located(directory, directory.resolve().name)
    if exists:
        raise ModelError(f"{model} is a file; expected a checkpoint directory or a hub id such as owner/name")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(f"there is no directory {model}, and it is not a hub id such as owner/name")
    return Located(_download(model), model)


def _download(repository: str) -> Path:
    # Imported here since a local model needs none of it, and it takes a good part of a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(repository, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        )
    except GatedRepoError as error:
        raise ModelError(f"the hub's {repository} is gated: request access, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no directory {repository}, and the hub has no such repository "
            "(or it is private: set HF_TOKEN)"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{repository} is neither a directory nor a valid hub id") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"there is no directory {repository}, it is not in the hub's cache, and the hub cannot be "
            "reached (or HF_HUB_OFFLINE is set)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repository} could not be downloaded: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
