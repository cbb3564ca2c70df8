"""The Python client and the terminal chat against the stack."""

import subprocess
import sys

import pytest

import tokenwire
from tests.e2e.questions import FRANCE
from tests.patience import eventually


def test_a_conversation_is_answered(client):
    generation = client.chat(FRANCE, temperature=0.0, return_token_ids=True)

    assert "Paris" in generation.text
    assert generation.finish_reason == "stop"
    assert generation.usage.completion_tokens == len(generation.token_ids)
    assert generation.usage.prompt_tokens == len(generation.prompt_token_ids)


def test_a_stream_says_what_the_whole_answer_says(client):
    deltas = list(client.stream_chat(FRANCE, temperature=0.0, max_tokens=40))

    assert "".join(delta.text for delta in deltas) == client.chat(FRANCE, temperature=0.0, max_tokens=40).text
    assert len(deltas) > 2


async def test_the_asynchronous_client_answers_the_same(stack, client):
    async with tokenwire.AsyncClient(stack.tokenizer, timeout=60) as asynchronous:
        assert await asynchronous.chat(FRANCE, temperature=0.0, max_tokens=40) == client.chat(
            FRANCE, temperature=0.0, max_tokens=40
        )


def test_text_token_ids_and_rendered_chats_are_the_same_prompt(client):
    rendered = client.render_chat(FRANCE)
    token_ids = client.tokenize(FRANCE)
    by_chat = client.chat(FRANCE, temperature=0.0, max_tokens=40)

    assert client.tokenize(rendered, add_special_tokens=False) == token_ids
    assert client.detokenize(token_ids, skip_special_tokens=False) == rendered
    assert client.generate(token_ids, temperature=0.0, max_tokens=40).text == by_chat.text
    assert (
        client.generate(rendered, temperature=0.0, max_tokens=40, add_special_tokens=False).text
        == by_chat.text
    )


def test_models_are_described(client):
    (card,) = client.models()
    assert (card.name, card.root, card.supports_chat) == ("tokenwire-demo", "tokenwire-demo", True)
    assert card.max_model_len >= 256


def test_closing_a_stream_frees_the_requests_blocks(stack, client):
    with client.stream_generate("Once", max_tokens=900, ignore_eos=True) as stream:
        next(stream)
    eventually(stack.is_idle)


def test_a_deadline_frees_the_requests_blocks(stack, client):
    with pytest.raises(tokenwire.DeadlineExceededError):
        client.generate("Once", max_tokens=900, ignore_eos=True, timeout=0.05)
    eventually(stack.is_idle)


def test_the_terminal_chat_answers_lines_from_a_pipe(stack):
    chat = terminal_chat(
        "What is the capital of France?\n\nWhat is the capital of Italy?\n",
        *[f"--tokenizer={stack.tokenizer}", "--temperature=0", "--max-tokens=40"],
    )
    assert (chat.returncode, chat.stderr) == (0, "")
    france, italy = chat.stdout.splitlines()
    assert "Paris" in france
    assert "Rome" in italy


def test_the_terminal_chat_says_what_is_wrong_in_one_line(stack):
    chat = terminal_chat("Hello\n", f"--tokenizer={stack.tokenizer}", "--model=gpt-99")

    assert chat.returncode == 1
    assert "gpt-99" in chat.stderr
    assert chat.stderr.count("\n") == 1


def terminal_chat(typed: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tokenwire_services.launcher", "chat", *options]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)
