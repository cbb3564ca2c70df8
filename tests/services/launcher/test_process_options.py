"""Options that are made of a configuration, and configurations that are made of options."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from tokenwire_services.launcher.options.engine import ENGINE
from tokenwire_services.launcher.options.gateway import GATEWAY
from tokenwire_services.launcher.options.process_options import ProcessOptions, takes
from tokenwire_services.launcher.options.tokenizer import TOKENIZER


@dataclasses.dataclass(frozen=True)
class Config:
    port: int = 7
    names: tuple[str, ...] = ("a",)
    hidden: int = 1


OPTIONS = ProcessOptions(Config, {"port": int, "name": list[str] | None}, fields={"name": "names"})


def test_an_option_has_the_default_of_its_field():
    assert {name: option.default for name, option in OPTIONS.parameters().items()} == {
        "port": 7,
        "name": None,
    }


def test_what_is_left_out_is_the_configurations_own():
    assert OPTIONS.build({"port": 7, "name": None}) == Config()


def test_what_is_given_several_times_is_a_tuple():
    assert OPTIONS.build({"port": 7, "name": ["b", "c"]}) == Config(names=("b", "c"))


def test_an_option_may_be_called_otherwise_and_sets_the_same_field():
    renamed = OPTIONS.renamed(port=("engine_port", int), name=("engine_name", list[str]))
    assert renamed.build({"engine_port": 8, "engine_name": ["b"]}) == Config(8, ("b",))


def test_a_field_whose_option_is_left_out_may_be_given():
    assert OPTIONS.without("port").build({"name": None}, port=9) == Config(9)


def test_a_function_says_which_options_it_takes_beside_its_own():
    @takes(OPTIONS)
    def command(*, loud: bool = False, **values: object) -> int:
        return 0

    assert list(inspect.signature(command).parameters) == ["port", "name", "loud"]


@pytest.mark.parametrize(
    ("options", "without"),
    [
        (ENGINE, set()),
        (TOKENIZER, {"max_prompt_bytes", "max_message_bytes", "max_backlog_bytes"}),
        (GATEWAY, set()),
    ],
    ids=["engine", "tokenizer", "gateway"],
)
def test_every_field_has_an_option_but_for_those_that_nobody_needs_to_change(options, without):
    fields = {field.name for field in dataclasses.fields(options.config)}
    assert fields - {options.field(name) for name in options.options} == without
