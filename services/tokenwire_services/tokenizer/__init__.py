"""The tokenizer service: text in, text out, token IDs to and from the engine."""
