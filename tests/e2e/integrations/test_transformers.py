"""transformers: the same tokenizer and the same template give the same prompt."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from tests.e2e.conftest import KEY
from tests.e2e.questions import OSLO, WEATHER

CHECKPOINT = Path("models/demo/checkpoint")
CONVERSATIONS = [
    OSLO,
    [{"role": "system", "content": "Be brief."}, *OSLO],
    [*OSLO, {"role": "assistant", "content": "Rain."}, {"role": "user", "content": "And in Rome? 🙂\n\n"}],
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.mark.parametrize("tools", [None, [WEATHER]], ids=["without tools", "with tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_a_chat_has_the_same_prompt(stack, client, tokenizer, messages, tools):
    expected = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    body = {"messages": messages} | ({"tools": tools} if tools else {})
    answer = httpx.post(
        f"{stack.url.removesuffix('/v1')}/tokenize", json=body, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert answer.json()["tokens"] == expected


def test_a_text_has_the_same_tokens_and_they_the_same_text(stack, tokenizer):
    root, headers = stack.url.removesuffix("/v1"), {"Authorization": f"Bearer {KEY}"}
    text = "Straße, naïve café, 東京, 🙂 and\ttabs"
    tokens = httpx.post(f"{root}/tokenize", json={"prompt": text}, headers=headers).json()["tokens"]
    assert tokens == tokenizer(text)["input_ids"]
    back = httpx.post(f"{root}/detokenize", json={"tokens": tokens}, headers=headers).json()["prompt"]
    assert back == tokenizer.decode(tokens)
