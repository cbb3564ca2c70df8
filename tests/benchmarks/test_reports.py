"""The benchmarks run, small, and write the reports that they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import chunking, offline, overlap, prefix, scheduler, sockets, stream

RESULTS = Path("benchmarks/results")


@pytest.mark.slow
def test_offline_throughput_is_compared_with_transformers_on_the_same_tokens(tmp_path: Path) -> None:
    report = tmp_path / "offline"
    sizes = ["--model", "llama-10m", "--requests", "1", "3", "--prompt-tokens", "20", "--output-tokens", "8"]
    offline.main(
        [
            *sizes,
            "--tokenwire",
            "dtype=float32",
            "--long-prompt-tokens",
            "600",
            "--rounds",
            "1",
            "--threads",
            "1",
            "--patience-s",
            "0",
            "--output",
            str(report),
        ]
    )
    (comparison,) = json.loads(report.with_suffix(".json").read_text())["comparisons"]
    assert [run["requests"] for run in comparison["runs"]] == [1, 3, 1]
    assert all(run["agreement"]["transformers float32"] == [1.0] for run in comparison["runs"])
    assert "| tok/s | tokenwire float32 | transformers float32 |" in report.with_suffix(".md").read_text()
    assert report.with_suffix(".png").stat().st_size > 0


def test_the_readme_quotes_tables_as_the_reports_have_them() -> None:
    readme = Path("README.md").read_text()
    quoted = readme[readme.index("## What it costs") : readme.index("## Read it")]
    rows = {line for line in quoted.splitlines() if line.startswith("|")}
    reported = {line for page in RESULTS.glob("*.md") for line in page.read_text().splitlines()}
    assert rows
    assert rows <= reported


@pytest.mark.slow
def test_stacks_with_sockets_and_without_are_measured_beside_each_other(tmp_path: Path) -> None:
    report = tmp_path / "sockets"
    sizes = ["--streams", "2", "--tokens", "16", "--rounds", "1", "--patience-s", "0"]
    sockets.main([*sizes, "--output", str(report)])
    page = report.with_suffix(".md").read_text()
    assert "| 2 | ports |" in page
    assert "| 2 | sockets |" in page
    for sample in json.loads(report.with_suffix(".json").read_text())["samples"]:
        assert min(sample["event_loop_us"], sample["tokenizer_us"], sample["gateway_us"]) > 0


@pytest.mark.slow
def test_the_cost_of_a_streamed_token_is_taken_from_the_processes(tmp_path: Path) -> None:
    report = tmp_path / "stream"
    sizes = ["--streams", "1", "8", "--tokens", "32", "--step-ms", "5", "--patience-s", "0"]
    stream.main([*sizes, "--output", str(report)])
    page = report.with_suffix(".md").read_text()
    assert "| chat | tokenwire | 8 |" in page
    assert "| completions | tokenwire | 8 |" in page
    points = json.loads(report.with_suffix(".json").read_text())["points"]
    assert [(point["api"], point["streams"]) for point in points] == [
        ("chat", 1), ("chat", 8), ("completions", 1), ("completions", 8)
    ]  # fmt: skip
    assert all(point["says"].startswith("A good server") for point in points)
    assert all(1 <= point["events_per_token"] <= 1 + 2 / 32 for point in points)
    assert all(point["cpu_us_per_token"].keys() == {"gateway", "tokenizer"} for point in points)


@pytest.mark.slow
def test_what_the_prefix_cache_saves_is_measured_on_the_same_tokens(tmp_path: Path) -> None:
    report = tmp_path / "prefix"
    sizes = ["--models", "llama-10m", "--requests", "3", "--common-tokens", "64", "--output-tokens", "4"]
    prefix.main([*sizes, "--rounds", "1", "--output", str(report)])
    (result,) = json.loads(report.with_suffix(".json").read_text())["models"]
    assert result["same_tokens"]
    assert result["on"]["computed_prompt_tokens"] < result["off"]["computed_prompt_tokens"] == [3 * 80]
    assert "| model | cache on, s | off, s |" in report.with_suffix(".md").read_text()


@pytest.mark.slow
def test_what_a_long_prompt_does_to_others_is_measured_by_step_size(tmp_path: Path) -> None:
    report = tmp_path / "chunking"
    sizes = ["--models", "llama-10m", "--streams", "2", "--prompt-tokens", "256", "--step-tokens", "32"]
    chunking.main([*sizes, "--rounds", "1", "--output", str(report)])
    variants = json.loads(report.with_suffix(".json").read_text())["models"]["llama-10m"]
    assert [variant["step_tokens"] for variant in variants] == ["258", "32"]
    assert all(gaps for variant in variants for gaps in variant["gaps_s"])
    assert "| 258, the whole prompt |" in report.with_suffix(".md").read_text()


@pytest.mark.slow
def test_what_overlap_is_worth_is_measured_on_the_same_tokens(tmp_path: Path) -> None:
    report = tmp_path / "overlap"
    sizes = ["--models", "llama-10m", "--requests", "1", "3", "--output-tokens", "8"]
    overlap.main([*sizes, "--rounds", "1", "--output", str(report)])
    points = json.loads(report.with_suffix(".json").read_text())["points"]
    assert [point["requests"] for point in points] == [1, 3]
    assert all(point["same_tokens"] for point in points)
    assert "| model | requests | overlap on, tok/s | off, tok/s |" in report.with_suffix(".md").read_text()


def test_every_policy_serves_the_whole_trace(tmp_path: Path) -> None:
    report = tmp_path / "scheduler"
    scheduler.main(["--requests", "300", "--output", str(report)])
    results = json.loads(report.with_suffix(".json").read_text())
    assert [row["policy"] for row in results["policies"]] == ["fcfs", "priority", "fair"]
    assert [row["running"] for row in results["plan_cost"]] == [64, 256, 512, 1024, 4096]
    assert "| policy | requests/s |" in report.with_suffix(".md").read_text()
    assert report.with_suffix(".png").stat().st_size > 0
