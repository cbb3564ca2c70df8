"""Tokens become text piece by piece, just as they would all at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenwire_services.tokenizer.detokenizer import Detokenizer
from tokenwire_services.tokenizer.whole_tokens import WholeTokens

CORPUS = ["the quick brown fox jumps over the lazy dog; 12 naïve cafés, 你好, done. "] * 4
TEXTS = ["the lazy dog", " two  spaces ", "你好 and 🙂🙂", "naïve é\n\tend", "<s>hi</s>", ""]


def byte_level() -> Tokenizer:
    """GPT-2's and Llama 3's kind: every token is bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama 2's kind: pieces of characters, words begin with ▁, other characters are byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", "é"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return tokenizer


def metaspace() -> Tokenizer:
    """T5's kind: words begin with ▁, the first one's is no space."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
}


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def pieces_of(
    tokenizer: Tokenizer, prompt: list[int], output: list[int], skip_special_tokens: bool = True
) -> list[str]:
    detokenizer = Detokenizer(tokenizer, WholeTokens(tokenizer), prompt, skip_special_tokens)
    return [detokenizer.push(token) or "" for token in output] + [detokenizer.flush()]


@pytest.mark.parametrize("skip_special_tokens", [True, False])
@pytest.mark.parametrize("output", TEXTS)
@pytest.mark.parametrize("prompt", ["", "the fox", "the fox ", "<s>", "<s>the</s>", "é 你"])
def test_the_pieces_join_to_the_text_after_the_prompt(
    any_tokenizer: Tokenizer, prompt: str, output: str, skip_special_tokens: bool
) -> None:
    prompt_ids, output_ids = any_tokenizer.encode(prompt).ids, any_tokenizer.encode(output).ids

    pieces = pieces_of(any_tokenizer, prompt_ids, output_ids, skip_special_tokens)

    before = any_tokenizer.decode(prompt_ids, skip_special_tokens)
    assert before + "".join(pieces) == any_tokenizer.decode(prompt_ids + output_ids, skip_special_tokens)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=30))
@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_any_text_comes_back_without_half_a_character(kind: str, text: str) -> None:
    tokenizer = _TOKENIZERS.setdefault(kind, KINDS[kind]())
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids

    pieces = pieces_of(tokenizer, [], token_ids)

    assert "".join(pieces) == tokenizer.decode(token_ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


_TOKENIZERS: dict[str, Tokenizer] = {}

GRAPHEMES = [
    "🙂",
    "👩\u200d👩\u200d👧",
    "🇳🇴",
    "e\u0301",
    "ก็",
    "한",
    "\u0301",
    "\u200d",
    "\ufe0f",
    "ß",
    "\x00",
]
WORDS = [" ", "  ", "the", "a", "\n", "<s>", "▁"]
words = st.lists(st.sampled_from(GRAPHEMES + WORDS) | st.text(max_size=4), max_size=15)


@settings(deadline=None)
@given(words=words, data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_may_be_cut_into_prompt_and_output_anywhere(
    kind: str, words: list[str], data: st.DataObject
) -> None:
    tokenizer = _TOKENIZERS.setdefault(kind, KINDS[kind]())
    token_ids = tokenizer.encode("".join(words), add_special_tokens=False).ids
    cut = data.draw(st.integers(0, len(token_ids)))
    prompt, output = token_ids[:cut], token_ids[cut:]

    pieces = pieces_of(tokenizer, prompt, output)

    before = tokenizer.decode(prompt)
    if not before.endswith("\ufffd"):  # else it ends within a character, which the output completes
        assert before + "".join(pieces) == tokenizer.decode(token_ids)


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_whatsoever_are_taken(kind: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS.setdefault(kind, KINDS[kind]())
    token = st.integers(min_value=0, max_value=tokenizer.get_vocab_size() - 1)
    prompt = data.draw(st.lists(token, max_size=20))
    output = data.draw(st.lists(token, max_size=20))

    text = "".join(pieces_of(tokenizer, prompt, output))

    if kind == "byte level":  # whose text grows at its end only, unless the prompt ends within a character
        before, after = tokenizer.decode(prompt), tokenizer.decode(prompt + output)
        if not before.endswith("\ufffd"):
            assert before + text == after


def test_a_character_cut_off_by_the_end_is_flushed_as_the_decoder_shows_it() -> None:
    tokenizer = byte_level()
    token_ids = tokenizer.encode("ok🙂").ids[:-1]

    assert pieces_of(tokenizer, [], token_ids)[-1] == "\ufffd"


def test_a_character_that_the_prompt_began_is_completed() -> None:
    tokenizer = byte_level()
    token_ids = tokenizer.encode("ok 🙂!").ids

    assert "".join(pieces_of(tokenizer, token_ids[:-2], token_ids[-2:])) == "🙂!"


def test_bytes_that_turn_out_invalid_do_not_stop_the_text() -> None:
    tokenizer = byte_fallback()
    euro = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    output = [*euro, euro[0], tokenizer.token_to_id("▁the"), tokenizer.token_to_id("a")]

    assert "".join(pieces_of(tokenizer, [], output)) == "€\ufffd thea"


def test_endless_invalid_bytes_are_given_out_before_the_end() -> None:
    tokenizer = byte_level()
    half = tokenizer.encode("🙂").ids[0]

    pieces = pieces_of(tokenizer, [], [half] * 200)

    assert "\ufffd" in "".join(pieces[:100])
    assert "".join(pieces) == tokenizer.decode([half] * 200)


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_token_spells_the_same_after_any_whole_characters(kind: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS.setdefault(kind, KINDS[kind]())
    token = st.integers(min_value=0, max_value=tokenizer.get_vocab_size() - 1)
    before = data.draw(st.lists(token, max_size=20))
    token_id = data.draw(token)

    whole = WholeTokens(tokenizer)[token_id]

    text = tokenizer.decode(before, skip_special_tokens=False)
    if whole and not text.endswith("\ufffd"):
        assert text + whole == tokenizer.decode([*before, token_id], skip_special_tokens=False)


def test_the_words_of_a_byte_level_tokenizer_are_whole_and_half_characters_are_not() -> None:
    tokenizer = byte_level()
    whole = WholeTokens(tokenizer)
    assert "".join(whole[token_id] for token_id in tokenizer.encode("the lazy dog").ids) == "the lazy dog"
    assert [whole[token_id] for token_id in tokenizer.encode("🙂").ids] == [""] * 4
    assert whole[tokenizer.token_to_id("<s>")] == ""
