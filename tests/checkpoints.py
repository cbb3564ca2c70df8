"""Tiny checkpoints with random weights, written as transformers writes them.

They are the oracle's own: what transformers computes from the same directory is what the engine must compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DEMO = Path(__file__).parents[1] / "models" / "demo" / "checkpoint"
"""The bundled model, which knows answers."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Wide enough that the best token is a clear winner, whatever the order of floating-point sums.
    "initializer_range": 0.2,
}


def write_checkpoint(
    directory: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    max_shard_size: str = "5GB",
    dtype: str = "float32",
    with_tokenizer: bool = False,
    **changes: Any,
) -> Path:
    """Write a random checkpoint of a family and return its directory.

    Args:
        max_shard_size: small values, such as "50KB", make several safetensors files and an index.
        with_tokenizer: also write a tokenizer with one token per byte (and the three special ones).
        changes: fields of the config that differ from `SHAPE`, such as `tie_word_embeddings=True`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **(SHAPE | {"head_dim": 16} | changes))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # transformers starts them at 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    if with_tokenizer:
        write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer: token 3 + b is the byte b; 0, 1 and 2 are <pad>, <s> and </s>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=(
            "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
        ),
    ).save_pretrained(directory)
