"""The documentation's Python, page by page as it stands there, but for the addresses of the stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.questions import MODEL, WEATHER
from tests.e2e.stack import Stack, serving

ROOT = Path(__file__).parents[2]
NEEDS_A_PEER = "docs/benchmarks.md"
PRINTS = {
    "README.md": ["47 + 38 = 85", "1, 2, 3"],
    "docs/grpc.md": ["The capital of France is Paris."],
    "docs/http-api.md": ["The capital of France is Paris."],
    "docs/integrations/instructor.md": ["name='Emma' age=36 city='Lyon'"],
    "docs/integrations/langchain.md": ["The capital of France is Paris.", "get_weather"],
    "docs/integrations/litellm.md": ["The capital of France is Paris."],
    "docs/integrations/llama-index.md": ["The capital of France is Paris."],
    "docs/integrations/openai.md": ["name='Emma' age=36 city='Lyon'"],
    "docs/integrations/pydantic-ai.md": [],
    "docs/integrations/transformers.md": [],
    "docs/structured-output.md": ["name='Emma' age=36 city='Lyon'"],
    "docs/tool-calling.md": ['{"city": "Lyon"}'],
}
"""What each page's examples say, where the model is sure of it."""
NAMES = {
    "prompt_token_ids": list(range(40)),
    "held_by_engine": set(),
    "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
    "tools": [WEATHER],
    "run": lambda function: "7 degrees and rain",
}
"""What examples take for granted."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that asks for no key, its model greedy unless it is told otherwise: the same answers every time."""
    folder = tmp_path_factory.mktemp("model")
    for file in (ROOT / "models" / "demo" / "checkpoint").iterdir():
        (folder / file.name).symlink_to(file)
    config = folder / "generation_config.json"
    greedy = json.loads(config.read_text()) | {"temperature": 0.0}
    config.unlink()
    config.write_text(json.dumps(greedy))
    with serving(str(folder), f"--served-model-name={MODEL}") as stack:
        yield stack


def test_every_page_with_python_is_tried():
    pages = {str(page.relative_to(ROOT)) for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
    with_python = {page for page in pages if "```python" in (ROOT / page).read_text()}
    assert with_python - {NEEDS_A_PEER} == set(PRINTS)


@pytest.mark.parametrize("page", PRINTS)
def test_a_pages_examples_run_and_print_what_they_should(stack, capsys, monkeypatch, page):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # fetches it otherwise
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text()
    names = dict(NAMES)
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        here = example.replace("http://127.0.0.1:8000", stack.url.removesuffix("/v1"))
        exec(compile(here.replace("127.0.0.1:50052", stack.tokenizer), page, "exec"), names)
    printed = capsys.readouterr().out
    assert all(words in printed for words in PRINTS[page]), printed
