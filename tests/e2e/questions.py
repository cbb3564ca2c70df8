"""What the end-to-end tests ask the demo model, which was trained on such questions."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

MODEL = "tokenwire-demo"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
OSLO = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}
"""The tool that OSLO is a question for."""
PARIS = [{"role": "user", "content": "Describe Paris as JSON."}]


class City(BaseModel):
    """What PARIS is answered with."""

    name: str
    country: str
    is_capital: bool
