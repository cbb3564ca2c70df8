"""Asking the model directly, without any server: how training sees its progress.

Slow and simple: every step computes all texts anew.
"""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer

from models.demo.model import DemoModel, Shape
from models.demo.questions import question_sets
from models.demo.tokenizer import END_OF_TEXT, TURN_END, chat_template, token_id
from models.demo.tools import Message, Tool


def report(model: DemoModel, tokenizer: Tokenizer, limit: int) -> None:
    """Print how many held-out questions the model answers, and some that it does not."""
    for name, questions in question_sets(limit).items():
        answers = greedy(model, tokenizer, [(q.messages, q.tools) for q in questions])
        wrong = [(q, a) for q, a in zip(questions, answers, strict=True) if not q.accepts(*parsed(a))]
        print(f"{name}: {1 - len(wrong) / len(questions):.1%} of {len(questions)}", flush=True)
        for question, answer in wrong[:4]:
            print(f"    {question.messages[-1]['content']!r} -> {answer!r}", flush=True)


@torch.inference_mode()
def greedy(
    model: DemoModel,
    tokenizer: Tokenizer,
    chats: list[tuple[list[Message], list[Tool]]],
    max_tokens: int = 64,
) -> list[str]:
    """The greedy answers to chats with tools on offer, without the tokens that end them.

    Computed in float32 from the weights rounded to bfloat16, as a checkpoint has them.
    """
    device = next(model.parameters()).device
    rounded = DemoModel(Shape(vocab=tokenizer.get_vocab_size())).to(device)
    rounded.load_state_dict({name: weight.bfloat16().float() for name, weight in model.state_dict().items()})
    prompts = [
        tokenizer.encode(
            chat_template().render(messages=messages, tools=tools or None, add_generation_prompt=True)
        ).ids
        for messages, tools in chats
    ]
    ends = {token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for chunk in (order[i : i + 64] for i in range(0, len(order), 64)):
        texts = {i: list(prompts[i]) for i in chunk}
        running = list(chunk)
        for _ in range(max_tokens):
            width = max(len(texts[i]) for i in running)
            ids = torch.tensor([texts[i] + [0] * (width - len(texts[i])) for i in running], device=device)
            last = torch.tensor([len(texts[i]) - 1 for i in running], device=device)
            chosen = rounded.logits(rounded(ids)[torch.arange(len(running)), last]).argmax(-1).tolist()
            for i, token in zip(running, chosen, strict=True):
                texts[i].append(token)
            running = [i for i, token in zip(running, chosen, strict=True) if token not in ends]
            if not running:
                break
        for i in chunk:
            answers[i] = tokenizer.decode([t for t in texts[i][len(prompts[i]) :] if t not in ends])
    return answers


def parsed(answer: str) -> tuple[str, list[tuple[str, str]]]:
    """An answer's text, and its tool calls as names and JSON arguments."""
    pattern = r'<tool_call>\n\{"name": "([^"]*)", "arguments": (.*)\}\n</tool_call>'
    return re.sub(pattern, "", answer), re.findall(pattern, answer)
