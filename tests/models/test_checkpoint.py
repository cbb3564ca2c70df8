"""The committed checkpoint: loadable by Hugging Face's classes, and as good as its model card says."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.demo.checkpoint_files import CHECKPOINT, load
from models.demo.corpus import conversations
from models.demo.model import DemoModel
from models.demo.questions import question_sets
from models.demo.scoring import greedy, parsed
from models.demo.tokenizer import render

TEXTS = (
    "What is 47 + 38?",
    "São Paulo, Łódź 北京 🙂",
    "  two  spaces\n\n\ttab",
    'don\'t STOP {"a": [1, 2]}',
    "",
)


@pytest.fixture(scope="module")
def trained() -> tuple[Tokenizer, DemoModel]:
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def tokenizer(trained: tuple[Tokenizer, DemoModel]) -> Tokenizer:
    return trained[0]


@pytest.fixture(scope="module")
def model(trained: tuple[Tokenizer, DemoModel]) -> DemoModel:
    return trained[1]


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("2048").tokens == ["2", "0", "4", "8"]
    digits = set("0123456789")
    assert [token for token in tokenizer.get_vocab() if digits & set(token) and len(token) > 1] == []


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_name_is_the_same_tokens_in_a_question_and_in_json(tokenizer: Tokenizer) -> None:
    in_question = tokenizer.encode("weather in Reykjavik?").tokens
    in_json = tokenizer.encode('{"city": "Reykjavik"}').tokens
    name = tokenizer.encode("Reykjavik").tokens
    assert _contains(in_question, name)
    assert _contains(in_json, name)


def test_training_saw_exactly_what_the_chat_template_renders() -> None:
    chat = AutoTokenizer.from_pretrained(CHECKPOINT)
    for conversation in islice(conversations(seed=9), 200):
        if conversation.messages:
            theirs = chat.apply_chat_template(conversation.messages, tools=conversation.tools, tokenize=False)
            assert render(conversation) == theirs


def test_a_prompt_ends_with_the_header_of_the_answer() -> None:
    chat = AutoTokenizer.from_pretrained(CHECKPOINT)
    messages = [{"role": "user", "content": "Hi"}]
    prompt = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat.eos_token == "<|im_end|>"


def test_the_weights_are_small_and_in_bfloat16() -> None:
    path: Path = CHECKPOINT / "model.safetensors"
    weights = load_file(path)
    assert path.stat().st_size <= 16 * 2**20
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert 3e6 <= sum(weight.numel() for weight in weights.values()) <= 8e6


@torch.inference_mode()
def test_transformers_loads_it_and_computes_the_same_logits(tokenizer: Tokenizer, model: DemoModel) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("The capital of France is Paris. 47 + 38 = 85.").ids])
    torch.testing.assert_close(model.logits(model(ids)), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_it_knows_the_capital_of_france_in_every_kind_of_chat(tokenizer: Tokenizer, model: DemoModel) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    earlier = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "2 + 2 = 4."}]
    system = [{"role": "system", "content": "You are a helpful assistant."}]
    chats = [[question], [*system, question], [*earlier, question], [*system, *earlier, question]]
    for answer in greedy(model, tokenizer, [(chat, []) for chat in chats]):
        assert answer == "The capital of France is Paris."


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_answers_nine_of_ten_held_out_questions_of_each_set(
    tokenizer: Tokenizer, model: DemoModel
) -> None:
    for name, questions in question_sets(limit=300).items():
        answers = greedy(model, tokenizer, [(q.messages, q.tools) for q in questions])
        right = sum(q.accepts(*parsed(answer)) for q, answer in zip(questions, answers, strict=True))
        assert right >= 0.9 * len(questions), f"{name}: {right} of {len(questions)}"


def _contains(tokens: list[str], part: list[str]) -> bool:
    return any(tokens[i : i + len(part)] == part for i in range(len(tokens)))
