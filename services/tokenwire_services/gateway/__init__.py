"""The gateway: an OpenAI-style HTTP API in front of the tokenizer service. It knows nothing of tokens."""
