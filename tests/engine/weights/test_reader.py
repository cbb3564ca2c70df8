"""Parameters come from the files as they are needed, and a file that is wrong says so in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.driver import ignore_progress
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.base import Progress
from tokenwire_engine.weights.checkpoint import stored_tensors
from tokenwire_engine.weights.reader import Piece, WeightReader


def reader_of(
    directory: Path,
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    progress: Progress = ignore_progress,
) -> WeightReader:
    file = directory / "model.safetensors"
    save_file(tensors, file)
    return WeightReader(stored_tensors([file]), torch.device("cpu"), dtype, progress)


def mapped_file_of(tensor: torch.Tensor) -> str:
    """The file that the tensor's memory maps; empty for memory of its own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if line.count(" ") > 4 else (line, "")
        begin, end = (int(bound, 16) for bound in span.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return name if name.startswith("/") else ""
    raise AssertionError("the tensor is nowhere")


def test_a_tensor_that_is_stored_as_it_is_needed_is_the_mapped_file(tmp_path: Path) -> None:
    stored = torch.randn(300, 400)
    read = reader_of(tmp_path, {"a": stored}).read(Piece("a", (300, 400)))
    assert torch.equal(read, stored)
    assert mapped_file_of(read) == str(tmp_path / "model.safetensors")


def test_a_tensor_of_another_dtype_is_converted(tmp_path: Path) -> None:
    stored = torch.randn(3, 4).bfloat16()
    read = reader_of(tmp_path, {"a": stored}).read(Piece("a", (3, 4)))
    assert read.dtype == torch.float32
    assert torch.equal(read, stored.float())


def test_pieces_are_fused_along_the_first_dimension(tmp_path: Path) -> None:
    a, b = torch.randn(4, 6), torch.randn(2, 6).half()
    read = reader_of(tmp_path, {"a": a, "b": b}).read(Piece("a", (4, 6)), Piece("b", (2, 6)))
    assert torch.equal(read, torch.cat([a, b.float()]))
    assert mapped_file_of(read) == ""


def test_a_span_of_rows_or_columns_is_read(tmp_path: Path) -> None:
    stored = torch.randn(4, 6)
    reader = reader_of(tmp_path, {"a": stored})
    assert torch.equal(reader.read(Piece("a", (4, 6), rows=slice(1, 3))), stored[1:3])
    columns = reader.read(Piece("a", (4, 6), columns=slice(2, 5)))
    assert torch.equal(columns, stored[:, 2:5])
    assert columns.is_contiguous()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks the tensor b \(expected shape \[2\]\)"):
        reader_of(tmp_path, {"a": torch.zeros(2)}).read(Piece("b", (2,)))


def test_a_wrong_shape_is_named_with_the_file_and_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a in .*model.safetensors has the shape \[2\]; expected \[3\]"):
        reader_of(tmp_path, {"a": torch.zeros(2)}).read(Piece("a", (3,)))


def test_a_dtype_that_is_no_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"dtype torch.int8; expected float32"):
        reader_of(tmp_path, {"a": torch.zeros(2, dtype=torch.int8)}).read(Piece("a", (2,)))


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\xff" * 64])
def test_a_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read as safetensors"):
        stored_tensors([file])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read as safetensors"):
        stored_tensors([file])


def test_tensors_that_nobody_asked_for_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {name: torch.zeros(2) for name in ("a", "surplus", "lm_head.weight", "further")}
    reader = reader_of(tmp_path, tensors)
    reader.read(Piece("a", (2,)))
    with caplog.at_level(logging.WARNING):
        reader.finish(ignored=("lm_head.weight",))
    assert [record.getMessage() for record in caplog.records] == [
        "tensors of the checkpoint that are not used: further and 1 more"
    ]


def test_progress_rises_to_one(tmp_path: Path) -> None:
    fractions: list[float | None] = []
    reader = reader_of(
        tmp_path,
        {name: torch.zeros(2) for name in "abcd"},
        progress=lambda phase, fraction=None: fractions.append(fraction),
    )
    for name in "abcd":
        reader.read(Piece(name, (2,)))
    reader.finish()
    assert fractions == [0.25, 0.5, 0.75, 1.0, 1.0]
