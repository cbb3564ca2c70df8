"""From conversations to batches of token ids, with the tokens that are learned marked.

Only the answers of a chat are learned, each with the token that ends it; of plain text everything is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.demo.corpus import Conversation
from models.demo.tokenizer import END_OF_TEXT, TURN_END, TURN_START, render, token_id

_LONGEST_TO_SHORTEST = 1.4
"""Within a micro-batch; more would waste time on padding, less on small matrices."""

Sample = tuple[list[int], list[bool]]
"""Token ids, and for each whether it is learned."""


def encoded(tokenizer: Tokenizer, source: Iterator[Conversation], context: int) -> Iterator[Sample]:
    """The samples of an endless stream of conversations, each cut to `context` tokens."""
    start, end, end_of_text = (token_id(tokenizer, token) for token in (TURN_START, TURN_END, END_OF_TEXT))
    header = tokenizer.encode(TURN_START + "assistant\n").ids
    while True:
        for encoding in tokenizer.encode_batch([render(c) for c in islice(source, 1024)]):
            ids = encoding.ids[:context]
            yield ids, _learned(ids, start, end, header) if ids[-1] != end_of_text else [True] * len(ids)


def take_tokens(text: Iterator[Sample], count: int) -> list[Sample]:
    """The next samples, until there are at least `count` tokens."""
    batch: list[Sample] = []
    while count > 0:
        batch.append(next(text))
        count -= len(batch[-1][0])
    return batch


def micro_batches(
    batch: list[Sample], micro_tokens: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [rows, length] of samples of similar length; a target of -100 is not learned."""
    batch = sorted(batch, key=lambda sample: len(sample[0]))
    while batch:
        rows, longest = 1, _LONGEST_TO_SHORTEST * len(batch[0][0])
        while rows < len(batch) and len(batch[rows][0]) <= min(longest, micro_tokens / (rows + 1)):
            rows += 1
        chunk, batch = batch[:rows], batch[rows:]
        width = len(chunk[-1][0])
        ids = torch.zeros(rows, width, dtype=torch.long)
        targets = torch.full((rows, width), -100)
        for row, (tokens, mask) in enumerate(chunk):
            values = torch.tensor(tokens)
            ids[row, : len(tokens)] = values
            targets[row, : len(tokens) - 1] = values[1:].where(torch.tensor(mask[1:]), -100)
        yield ids.to(device), targets.to(device)


def _learned(ids: list[int], start: int, end: int, header: list[int]) -> list[bool]:
    """Marks the answers, each with the token that ends it."""
    mask, answering = [False] * len(ids), False
    for i, token in enumerate(ids):
        if token == start:
            answering = False
        elif ids[max(0, i - len(header)) : i] == header:
            answering = True
        mask[i] = answering
        if token == end:
            answering = False
    return mask
