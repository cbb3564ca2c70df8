"""What Prometheus gets from the three processes of a stack."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.patience import eventually

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def scrape(port: int) -> dict[str, float]:
    """Samples by name, those with several labels added up."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text):
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, 0) + sample.value
    return samples


def test_a_request_is_counted_by_all_three(stack, client):
    ports = (stack.engine_metrics_port, stack.tokenizer_metrics_port, stack.gateway_port)
    before = [scrape(port) for port in ports]
    usage = client.generate("Once upon a time", max_tokens=20, ignore_eos=True).usage
    eventually(stack.is_idle)
    engine, tokenizer, _ = (
        {name: value - old.get(name, 0) for name, value in scrape(port).items()}
        for port, old in zip(ports, before, strict=True)
    )
    assert engine["tokenwire_engine_generation_tokens_total"] == usage.completion_tokens == 20
    assert engine["tokenwire_engine_prompt_tokens_total"] == usage.prompt_tokens
    assert engine["tokenwire_engine_inter_token_latency_seconds_count"] == 19
    assert engine["tokenwire_engine_requests_finished_total"] == 1
    assert tokenizer["tokenwire_tokenizer_requests_total"] == 1
    assert tokenizer["tokenwire_tokenizer_generation_tokens_total"] == 20


@pytest.mark.parametrize("process", ["engine_metrics", "tokenizer_metrics", "gateway"])
def test_every_metric_is_documented(stack, process):
    for name in scrape(getattr(stack, f"{process}_port")):
        short = re.sub(
            "^tokenwire_(engine_|tokenizer_)?", "", re.sub("_(bucket|count|sum|created)$", "", name)
        )
        assert name.startswith("process_") or f"`{short}" in DOCUMENTED, name
