from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tokenwire_kernels.reference.random import philox, uniform
from tokenwire_kernels.triton.random import uniform as triton_uniform

_ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((_ONES,) * 4, (_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox(torch.tensor(key[0]), torch.tensor(key[1]), tuple(torch.tensor(word) for word in counter))
    assert tuple(int(word) for word in words) == expected


def test_numbers_are_uniform_in_the_half_open_unit_interval() -> None:
    count = 100_000
    numbers = uniform(torch.full((count,), 7), torch.zeros(count, dtype=torch.int32), torch.arange(count))
    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    observed = torch.histc(numbers, bins=100, min=0, max=1)
    assert (
        float(((observed - count / 100) ** 2 / (count / 100)).sum()) < 178
    )  # 99 degrees of freedom, p < 1e-6


def test_seed_position_and_sample_each_change_the_number() -> None:
    seeds = torch.tensor([1, 2, 1, 1, 1 << 32, 1])
    samples = torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.int32)
    positions = torch.tensor([5, 5, 5, 6, 5, 1 << 33])
    assert uniform(seeds, samples, positions).unique().numel() == 6


def test_triton_gives_the_same_bits() -> None:
    seeds, positions = torch.randint(-(2**63), 2**63 - 1, (256,)), torch.randint(0, 2**40, (256,))
    samples = torch.randint(0, 2**31 - 1, (256,), dtype=torch.int32)
    out = torch.full((256,), float("nan"))
    _uniform_kernel[(1,)](seeds, samples, positions, out, COUNT=256)
    assert torch.equal(out, uniform(seeds, samples, positions))


@triton.jit
def _uniform_kernel(seeds_ptr, samples_ptr, positions_ptr, out_ptr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    number = triton_uniform(tl.load(seeds_ptr + at), tl.load(samples_ptr + at), tl.load(positions_ptr + at))
    tl.store(out_ptr + at, number)
