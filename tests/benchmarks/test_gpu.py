"""The GPU's report, tried out with tiny shapes on a CPU; and what becomes of a section that goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.decode import idle_share
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.lengths import request_lengths

CONTEXT = {"device": "cpu", "quick": True, "ceilings": {}}


@pytest.mark.timeout(240)
def test_every_section_is_measured_and_reported(tmp_path: Path) -> None:
    output = gpu.main(["--device", "cpu", "--quick", "--output", str(tmp_path)])
    report = json.loads(output.with_name(output.name + ".json").read_text())
    assert [section["name"] for section in report["sections"]] == list(gpu.SECTIONS)
    assert {section["status"] for section in report["sections"]} == {"done"}, report
    assert all(table["rows"] for section in report["sections"] for table in section["tables"])
    page = output.with_name(output.name + ".md").read_text()
    for plot in ("decode", "kernels"):
        assert f"({output.name}-{plot}.png)" in page
        assert output.with_name(f"{output.name}-{plot}.png").stat().st_size > 0
    assert "to try the benchmark out: the figures mean nothing" in page
    for title in (
        "Ceilings",
        "Kernels",
        "Decode",
        "Throughput",
        "Start of tiny",
        "Serving",
        "Compilation",
        "Layers in one launch",
        "Early launch",
        "Specialized warps",
    ):
        assert f"### {title}\n" in page


def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no CUDA device; --device cpu --quick tries" in capsys.readouterr().err


def test_a_section_that_fails_says_why() -> None:
    section = gpu.run("no_such_section", 30.0, CONTEXT)
    assert section["status"] == "failed"
    assert section["reason"] == (
        "exit status 1: ModuleNotFoundError: No module named 'benchmarks.gpu.no_such_section'"
    )
    assert section["tables"] == []


def test_a_section_that_takes_too_long_is_cut_short() -> None:
    section = gpu.run("kernels", 0.2 - gpu.GRACE_S, CONTEXT)
    assert section["status"] == "cut"


def test_what_was_found_is_on_disk_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "findings.json"
    findings = Findings(file)
    findings.table("Speeds", "what", "value")
    findings.row("read", 3.5)
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["tables"] == [{"title": "Speeds", "columns": ["what", "value"], "rows": [["read", 3.5]]}]


def test_all_sections_together_take_less_than_eight_minutes() -> None:
    assert sum(gpu.SECTIONS.values()) + gpu.GRACE_S * len(gpu.SECTIONS) <= 8 * 60


def test_idle_is_what_no_span_covers() -> None:
    assert idle_share([(0, 4), (1, 3), (6, 10)]) == pytest.approx(0.2)
    assert idle_share([(5, 6)]) == 0


def test_the_table_of_lengths_never_changes() -> None:
    lengths = request_lengths(1000)
    assert lengths[:4] == [(74, 38), (18, 86), (310, 1015), (19, 264)]
    assert all(4 <= length <= 1024 for pair in lengths for length in pair)
