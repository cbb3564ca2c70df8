"""Train the demo model from nothing: `python -m models.demo.train`.

Everything follows from the seeds: the corpus, the tokenizer, the initial weights and the order of the text.
A step draws conversations until it has enough tokens, sorts them by length into micro-batches with little
padding, and learns from the answers only. Matrices are trained with Muon, the rest with AdamW.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.demo.batches import encoded, micro_batches, take_tokens
from models.demo.checkpoint_files import CHECKPOINT, load, save
from models.demo.corpus import conversations
from models.demo.model import DemoModel, Shape
from models.demo.scoring import report
from models.demo.tokenizer import train_tokenizer

TOKENIZER_SEED, TEXT_SEED = 1, 2
TOKENIZER_CONVERSATIONS = 40_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How the model is trained; tokens are counted without padding."""

    steps: int = 1800
    step_tokens: int = 8192
    micro_tokens: int = 4096
    warmup_steps: int = 50
    decay_fraction: float = 0.5
    matrix_lr: float = 0.02
    other_lr: float = 0.004
    weight_decay: float = 0.01
    seed: int = 0

    def lr_factor(self, step: int) -> float:
        """Warm up, stay, then fall linearly to zero."""
        decay_steps = self.decay_fraction * self.steps
        return min((step + 1) / self.warmup_steps, 1.0, (self.steps - step) / decay_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=Settings().steps, help="optimizer steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--eval", action="store_true", help="only score the checkpoint in --out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.eval:
        tokenizer, model = load(arguments.out)
        model.to(device)
    else:
        tokenizer, model = train(Settings(steps=arguments.steps), device, arguments.out)
    report(model, tokenizer, limit=1000)


def train(settings: Settings, device: torch.device, out: Path) -> tuple[Tokenizer, DemoModel]:
    """Train the tokenizer and the model, saving the checkpoint in `out` now and then."""
    torch.manual_seed(settings.seed)
    tokenizer = train_tokenizer(islice(conversations(TOKENIZER_SEED), TOKENIZER_CONVERSATIONS))
    shape = Shape(vocab=tokenizer.get_vocab_size())
    model = DemoModel(shape).to(device)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(matrices, settings.matrix_lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, settings.other_lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay),
    )
    base_lrs = (settings.matrix_lr, settings.other_lr)
    text = encoded(tokenizer, conversations(TEXT_SEED), shape.context)
    start, seen, window = time.monotonic(), 0, []
    for step in range(settings.steps):
        batch = take_tokens(text, settings.step_tokens)
        answer_tokens = sum(sum(mask) for _, mask in batch)
        step_loss = 0.0
        for ids, targets in micro_batches(batch, settings.micro_tokens, device):
            loss = _loss(model, ids, targets) / answer_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            step_loss += loss.item()
        for optimizer, base_lr in zip(optimizers, base_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base_lr * settings.lr_factor(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += sum(len(ids) for ids, _ in batch)
        window.append(step_loss)
        if (step + 1) % 50 == 0:
            loss_now, rate = sum(window) / len(window), seen / (time.monotonic() - start)
            print(f"step {step + 1}  loss {loss_now:.4f}  {seen:,} tokens  {rate:,.0f} tokens/s", flush=True)
            window = []
        if (step + 1) % 500 == 0 or step + 1 == settings.steps:
            save(model, tokenizer, shape, out)
            report(model, tokenizer, limit=60)
    return tokenizer, model


def _loss(model: DemoModel, ids: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of the learned targets; only they pay for the output head."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=_has_fast_bfloat16(ids.device)):
        learned = targets >= 0
        logits = model.logits(model(ids)[learned])
    return functional.cross_entropy(logits.float(), targets[learned], reduction="sum")


def _has_fast_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)


if __name__ == "__main__":
    main()
