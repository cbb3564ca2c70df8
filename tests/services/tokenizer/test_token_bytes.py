"""A token's bytes are those that it adds to the text, whatever the tokenizer writes them as."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tokenwire_services.tokenizer.token_bytes import TokenBytes


def test_byte_level_tokens_join_to_the_text(tokenizer: Tokenizer) -> None:
    text = "The sky, naïve, 日本 🙂\n\t\x00end"
    table = TokenBytes(tokenizer)
    assert b"".join(table[token_id] for token_id in tokenizer.encode(text).ids) == text.encode()


def test_special_tokens_are_their_own_text_and_padding_is_nothing(tokenizer: Tokenizer) -> None:
    table = TokenBytes(tokenizer)
    assert table[tokenizer.token_to_id("<|im_end|>")] == b"<|im_end|>"
    assert table[tokenizer.token_to_id("<tool_call>")] == b"<tool_call>"
    assert table[100_000] == b""


def test_tokens_with_byte_fallback_join_to_the_text() -> None:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257, "▁a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    text = "a aé a🙂"
    table = TokenBytes(tokenizer)
    assert b"".join(table[token_id] for token_id in tokenizer.encode(text).ids) == text.encode()
    assert table[tokenizer.token_to_id("</s>")] == b"</s>"


def test_the_first_words_space_is_kept_with_metaspace() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁sun": 0, "▁sea": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    table = TokenBytes(tokenizer)
    assert [table[0], table[1], table[2]] == [b" sun", b" sea", b"?"]
