"""The demo model on disk: a Hugging Face checkpoint directory with bfloat16 weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from models.demo.model import DemoModel, Shape
from models.demo.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, token_id

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The committed checkpoint."""


def save(model: DemoModel, tokenizer: Tokenizer, shape: Shape, directory: Path) -> None:
    """Write a Hugging Face checkpoint with bfloat16 weights into `directory`."""
    save_tokenizer(tokenizer, directory, shape.context)
    end_ids = [token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)]
    config = shape.huggingface_config(end_ids, pad_id=end_ids[1])
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": end_ids, "pad_token_id": end_ids[1]}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {
        name: weight.to(torch.bfloat16).cpu().contiguous() for name, weight in model.state_dict().items()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def load(directory: Path) -> tuple[Tokenizer, DemoModel]:
    """The tokenizer and, in float32, the model of a checkpoint that `save` wrote."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = DemoModel(Shape(vocab=tokenizer.get_vocab_size()))
    weights = load_file(directory / "model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return tokenizer, model
