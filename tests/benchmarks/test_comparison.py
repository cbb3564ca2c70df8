"""Who is compared with whom, and what follows from the durations."""

from __future__ import annotations

import pytest

from benchmarks.comparison import Comparison, Entrant, Run, agreement
from benchmarks.contenders import contenders, tokenwire

OURS, PEER, SLOW = "tokenwire int8", "llama.cpp q8_0", "other q8_0"


def comparison(*runs: Run) -> Comparison:
    entrants = [Entrant(name, *name.split(), "", 1.0) for name in (OURS, PEER, SLOW)]
    return Comparison("8-bit", entrants, list(runs), [10e9, 20e9, 12e9])


def run(requests: int, prompt_tokens: int) -> Run:
    return Run(
        requests,
        prompt_tokens,
        output_tokens=11,
        seconds={OURS: [1.0, 4.0, 1.0], PEER: [2.0, 8.0, 3.0], SLOW: [9.0, 9.0, 9.0]},
        first_token_seconds={OURS: [0.5, 2.0, 0.5], PEER: [1.0, 4.0, 1.0], SLOW: [1.0, 1.0, 1.0]},
    )


def test_precisions_meet_their_own_class() -> None:
    ours = [tokenwire("dtype=bfloat16"), tokenwire("quantization=int4,block-size=32")]
    found = contenders(ours, ["transformers", "llama.cpp"])
    assert {name: [member.name for member in members] for name, members in found.items()} == {
        "16-bit": ["tokenwire bfloat16", "transformers bfloat16", "llama.cpp f16", "llama.cpp bf16"],
        "4-bit": ["tokenwire int4", "llama.cpp q4_0"],
    }


@pytest.mark.parametrize("options", ["bfloat16", "dtype=int9"])
def test_options_that_name_no_precision_are_refused(options: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        tokenwire(options)


def test_a_class_is_entered_once() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        contenders([tokenwire("dtype=bfloat16"), tokenwire("dtype=float16")], [])


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected transformers, llama\.cpp, vllm"):
        contenders([tokenwire("dtype=float32")], ["ollama"])


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    (point,) = comparison(run(8, 128)).points()
    assert point.label == "8 requests"
    assert point.best_peer(OURS) == PEER
    assert point.ratio(OURS, PEER) == 2.0  # of 2, 2 and 3
    assert point.rate(OURS) == 88.0


def test_a_long_prompt_gives_prefill_and_decoding_apart() -> None:
    prefill, decode = comparison(run(1, 1024)).points()
    assert (prefill.label, prefill.rate(OURS)) == ("prefill of 1024", 2048.0)
    assert (decode.label, decode.rate(OURS)) == ("decode at 1024", 20.0)


def test_the_share_of_the_bandwidth_counts_the_bytes_of_the_weights() -> None:
    shares = comparison(run(1, 128)).bandwidth_share(num_weights=300_000_000)
    assert shares[OURS] == pytest.approx(300e6 * 20 / 12e9)  # one byte each, 20 tokens/s
    assert shares[PEER] == pytest.approx(300e6 * 8.5 / 8 * 5 / 12e9)  # 8.5 bits each, 5 tokens/s


def test_agreement_ends_at_the_first_token_that_differs() -> None:
    assert agreement([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 4], [5, 6, 7, 8]]) == 0.75
