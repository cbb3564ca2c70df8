"""Random numbers that depend on seed, position, sample and token alone."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tokenwire_kernels.reference.random import exponentials, philox, row_keys
from tokenwire_kernels.triton.random import exponential, uniform
from tokenwire_kernels.triton.random import row_keys as triton_row_keys

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


def test_numbers_are_exponentially_distributed_over_tokens_and_over_positions() -> None:
    count = 100_000
    seeds, index = torch.full((count,), 7), torch.zeros(count, dtype=torch.int32)
    keys = row_keys(seeds, index, torch.arange(count))
    for numbers in (exponentials(keys[:1], count)[0], exponentials(keys, 3)[:, 2]):
        assert numbers.min() > 0
        observed = torch.histc((-numbers).exp(), bins=100, min=0, max=1)  # uniform
        chi_square = float(((observed - count / 100) ** 2 / (count / 100)).sum())
        assert chi_square < 178  # 99 degrees of freedom, p < 1e-6


def test_the_numbers_of_neighbouring_tokens_and_positions_are_not_correlated() -> None:
    seeds, index = torch.full((2000,), 7), torch.zeros(2000, dtype=torch.int32)
    numbers = exponentials(row_keys(seeds, index, torch.arange(2000)), 500).double() - 1.0
    for shifted, other in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        assert abs(float((shifted * other).mean())) < 5 / shifted.numel() ** 0.5


def test_seed_position_and_sample_each_change_the_keys() -> None:
    seeds = torch.tensor([1, 2, 1, 1, 1 << 32, 1])
    samples = torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.int32)
    positions = torch.tensor([5, 5, 5, 6, 5, 1 << 33])
    assert row_keys(seeds, samples, positions)[:, 0].unique().numel() == 6


def test_triton_gives_the_same_numbers() -> None:
    seeds, positions = torch.randint(-(2**63), 2**63 - 1, (16,)), torch.randint(0, 2**40, (16,))
    samples = torch.randint(0, 2**31 - 1, (16,), dtype=torch.int32)
    out = torch.full((16, 256), float("nan"))
    _exponential_kernel[(16,)](seeds, samples, positions, out, COUNT=256)
    # A uniform number just below one is known to half a unit of its last place, and so is its logarithm.
    expected = exponentials(row_keys(seeds, samples, positions), 256)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=2.0**-24)


@triton.jit
def _exponential_kernel(seeds_ptr, samples_ptr, positions_ptr, out_ptr, COUNT: tl.constexpr):
    row, token = tl.program_id(0), tl.arange(0, COUNT)
    first, second = triton_row_keys(
        tl.load(seeds_ptr + row), tl.load(samples_ptr + row), tl.load(positions_ptr + row)
    )
    tl.store(out_ptr + row * COUNT + token, exponential(uniform(token, first, second)))
