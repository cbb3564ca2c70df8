"""What is made of an engine's tokenizer files."""

from __future__ import annotations

import pytest

from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer.model import load_model


def test_a_chat_template_that_cannot_be_used_is_said_when_the_model_is_loaded(
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(engine_pb2.GetModelResponse(), files | {"chat_template.jinja": b"{% for %}"})

    assert model.chat_template is None
    assert "the model's chat template cannot be used: the template cannot be compiled" in caplog.text


def test_a_model_without_a_chat_template_is_nothing_to_warn_of(
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    without = {name: data for name, data in files.items() if name != "chat_template.jinja"}
    assert load_model(engine_pb2.GetModelResponse(), without).chat_template is None
    assert not caplog.text
