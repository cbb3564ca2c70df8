"""Which files make a checkpoint, where it is looked for, and what is said of one that is incomplete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.weights.checkpoint import open_checkpoint
from tokenwire_engine.weights.locate import DEMO_NAME, locate


def write_config(directory: Path, **fields: object) -> Path:
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def test_a_single_file_and_several_with_an_index_are_found(tmp_path: Path) -> None:
    single = open_checkpoint(write_checkpoint(tmp_path / "single"))
    assert [file.name for file in single.weight_files()] == ["model.safetensors"]
    sharded = open_checkpoint(write_checkpoint(tmp_path / "sharded", max_shard_size="100KB"))
    assert len(sharded.weight_files()) > 2


def test_a_file_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, max_shard_size="100KB")
    next(directory.glob("model-00002-*")).unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-\d+.safetensors is missing"):
        open_checkpoint(directory).weight_files()


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "", 5, ["a"], None])
def test_an_index_names_files_of_its_own_directory_only(name: object, tmp_path: Path) -> None:
    write_config(tmp_path)
    index = {"weight_map": {"model.norm.weight": name, "lm_head.weight": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names the file .*; expected one in the same directory"):
        open_checkpoint(tmp_path).weight_files()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (write_config(tmp_path) / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pickled .bin files, which are never read"):
        open_checkpoint(tmp_path).weight_files()


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has neither model.safetensors nor"):
        open_checkpoint(write_config(tmp_path)).weight_files()


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("eos", [-1, "</s>", [[2]], True, 2**32])
def test_what_ends_a_generation_must_be_token_ids(eos: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has eos_token_id = .*; expected token IDs"):
        open_checkpoint(write_config(tmp_path, eos_token_id=eos)).eos_token_ids()


@pytest.mark.parametrize("content", ["", "{", "[]", pytest.param("[" * 100_000, id="deep")])
def test_a_config_that_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config.json (cannot be read as JSON|holds a JSON list)"):
        open_checkpoint(tmp_path)


def test_the_generation_config_says_what_ends_a_generation_before_the_config_does(tmp_path: Path) -> None:
    write_config(tmp_path, eos_token_id=7)
    assert open_checkpoint(tmp_path).eos_token_ids() == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert open_checkpoint(tmp_path).eos_token_ids() == (8, 9)


def test_no_model_means_the_demo_model() -> None:
    located = locate(None)
    assert located.name == DEMO_NAME
    assert (located.directory / "config.json").is_file()


def test_a_directory_is_named_for_itself(tmp_path: Path) -> None:
    assert locate(str(tmp_path)).name == tmp_path.name


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no directory .*nowhere, and it is not a hub id"):
        locate(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("name", "reason"), [("x" * 5000, "File name too long"), ("~nobody-here", "home")])
def test_a_name_that_can_be_no_path_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        locate(name)
    assert len(str(caught.value)) < 250


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(ModelError, match=r"model.gguf is a file; expected a checkpoint directory"):
        locate(str(file))


def test_a_hub_id_is_taken_from_the_cache_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"there is no directory owner/name, it is not in the hub's cache"):
        locate("owner/name")
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    write_config(snapshot)
    located = locate("owner/name")
    assert (located.directory, located.name) == (snapshot, "owner/name")
