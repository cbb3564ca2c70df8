"""What each family makes of a config.json, old and new style, and how it refuses one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenwire_engine.models.architecture import Architecture, LinearScaling, YarnScaling
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.models.families.registry import read_architecture

SHAPE: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def read(architecture: str, **fields: Any) -> Architecture:
    return read_architecture(ConfigFile(SHAPE | {"architectures": [architecture]} | fields))[1]


def test_llama_has_no_biases_unless_it_says_so() -> None:
    plain = read("LlamaForCausalLM")
    assert (plain.qkv_bias, plain.o_bias, plain.mlp_bias) == (False, False, False)
    biased = read("LlamaForCausalLM", attention_bias=True, mlp_bias=True)
    assert (biased.qkv_bias, biased.o_bias, biased.mlp_bias) == (True, True, True)


def test_qwen2_has_biases_on_queries_keys_and_values_only() -> None:
    architecture = read("Qwen2ForCausalLM")
    assert (architecture.qkv_bias, architecture.o_bias, architecture.mlp_bias) == (True, False, False)


def test_qwen3_normalizes_heads_which_are_128_wide_unless_it_says_otherwise() -> None:
    assert read("Qwen3ForCausalLM").qk_norm
    assert read("Qwen3ForCausalLM").head_dim == 128
    assert read("Qwen3ForCausalLM", head_dim=64).head_dim == 64


@pytest.mark.parametrize("fields", [{}, {"head_dim": None}])
def test_the_head_dimension_is_derived_where_it_is_absent_or_null(fields: dict[str, Any]) -> None:
    assert read("LlamaForCausalLM", **fields).head_dim == 32


def test_llama_without_kv_heads_has_one_for_each_query_head() -> None:
    assert read("LlamaForCausalLM", num_key_value_heads=None).num_kv_heads == 8


def test_mistral_has_a_window_unless_it_is_null() -> None:
    assert read("MistralForCausalLM", sliding_window=64).windows == (64,) * 4
    assert read("MistralForCausalLM", sliding_window=None).windows == (0,) * 4
    assert read("MistralForCausalLM").windows == (4096,) * 4


@pytest.mark.parametrize("family", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwen_has_windows_only_when_switched_on_and_only_on_the_layers_that_it_names(family: str) -> None:
    window = {"sliding_window": 64, "max_window_layers": 3}
    assert read(family, **window).windows == (0, 0, 0, 0)
    assert read(family, use_sliding_window=True, **window).windows == (0, 0, 0, 64)
    types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    assert read(family, use_sliding_window=True, layer_types=types, **window).windows == (64, 0, 64, 0)


def test_rotary_parameters_are_read_in_old_and_new_style() -> None:
    old = read("LlamaForCausalLM", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    new = read("LlamaForCausalLM", rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0})
    assert old.rotary == new.rotary
    assert new.rotary.theta == 5e5
    assert new.rotary.scaling == LinearScaling(2.0)


def test_a_scaling_extends_the_context() -> None:
    def context(**parameters: Any) -> int:
        return read(
            "LlamaForCausalLM", max_position_embeddings=1024, rope_parameters=parameters
        ).rotary.context_length

    assert context(rope_type="default") == 1024
    assert context(rope_type="linear", factor=4.0) == 4096
    assert context(rope_type="dynamic", factor=2.0) == 2048
    assert context(rope_type="yarn", factor=4.0, original_max_position_embeddings=512) == 2048
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    assert context(rope_type="llama3", factor=8.0, **llama3) == 1024


def test_yarn_without_a_factor_takes_it_from_the_lengths() -> None:
    parameters = {"rope_type": "yarn", "original_max_position_embeddings": 512}
    scaling = read(
        "LlamaForCausalLM", max_position_embeddings=2048, rope_parameters=parameters
    ).rotary.scaling
    assert isinstance(scaling, YarnScaling)
    assert scaling.factor == 4.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["T5Model"]}, "architecture T5Model, which is not supported; supported: Llama"),
        ({"architectures": None}, r"architecture \(none\)"),
        (
            {"architectures": "LlamaForCausalLM"},
            "architectures = 'LlamaForCausalLM'; expected a list of names",
        ),
        ({"architectures": [{}]}, r"architectures = \[{}\]; expected a list of names"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"is quantized \(gptq\)"),
        ({"quantization_config": "gptq"}, r"is quantized \(unknown method\)"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": "four"}, "num_hidden_layers = 'four'; expected a positive integer"),
        ({"num_hidden_layers": 1 << 30}, "num_hidden_layers = 1073741824; expected at most 1024"),
        ({"num_key_value_heads": 3}, "num_attention_heads = 8, which is not a multiple"),
        ({"hidden_size": 250}, "hidden_size = 250, which is not a multiple of num_attention_heads"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu', which is not supported; supported: 'silu'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps = -1; expected a positive number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps = nan; expected a positive number"),
        ({"rope_theta": math.inf}, "rope_theta = inf; expected a positive number"),
        ({"rope_theta": 10**400}, "rope_theta = 10+; expected a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'; expected true or false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, which is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type = 'longrope', which is not supported"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": "x"}},
            "attention_factor = 'x'; expected a positive number",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor = None; expected a positive number"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        read_architecture(ConfigFile(SHAPE | {"architectures": ["LlamaForCausalLM"]} | fields))
    assert "\n" not in str(error.value)


def test_layer_types_that_do_not_match_the_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="layer_types"):
        read("Qwen2ForCausalLM", layer_types=["full_attention"])
