"""Conversations in which tools are offered: called, answered from, or rightly ignored.

The model must copy (the tool's name, the parameter's name, the value), so all three are drawn from far more
names than can be memorised, most of them made up.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from models.demo.names import NAMES, WORDS, place_name
from models.demo.phrases import PLACE_DESCRIPTIONS, WEATHER, WEATHER_TOOL_DESCRIPTIONS, WEATHER_TOOL_NAMES

Message = dict[str, Any]
Tool = dict[str, Any]


def tool_conversation(rng: Random) -> tuple[list[Tool], list[Message]]:
    """Tools on offer and a conversation that uses one of them, without its system message."""
    makers = list(_MAKERS)
    make = makers.pop(rng.choices(range(len(makers)), [10] + [1] * (len(makers) - 1))[0])
    tool, question, arguments, result, reply = make(rng)
    others = rng.sample(makers, rng.choice((0, 0, 0, 1, 1, 2)))
    tools = [tool, *(other(rng)[0] for other in others)]
    rng.shuffle(tools)
    name = tool["function"]["name"]
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    if rng.random() < 0.25:
        messages += [{"role": "tool", "content": result}, {"role": "assistant", "content": reply}]
    return tools, messages


Example = tuple[Tool, str, dict[str, Any], str, str]
"""A tool, a question that needs it, the call's arguments, the tool's result, the answer after it."""


def _weather(rng: Random) -> Example:
    city = place_name(rng)
    name = rng.choice(WEATHER_TOOL_NAMES)
    key = rng.choice(
        ("city", "city", "city", "location", "location", "place", "town", "city_name", "query", "q", "name")
    )
    about = rng.choice(WEATHER_TOOL_DESCRIPTIONS)
    described = rng.choice(PLACE_DESCRIPTIONS)
    properties: dict[str, Any] = {key: _parameter("string", described)}
    arguments: dict[str, Any] = {key: city}
    question = rng.choice(WEATHER).format(c=city)
    if rng.random() < 0.4:
        unit_key = rng.choice(("unit", "unit", "units", "scale"))
        units = rng.choice((["celsius", "fahrenheit"], ["c", "f"], ["metric", "imperial"]))
        properties[unit_key] = {"type": "string", "enum": units}
        if rng.random() < 0.25 and units[0] == "celsius":
            unit = rng.choice(units)
            question = f"What is the weather in {city} in {unit.capitalize()}?"
            arguments[unit_key] = unit
    degrees = rng.randint(-9, 39)
    sky = rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy"])
    result = rng.choice(
        (
            f'{{"temperature": {degrees}, "condition": "{sky}"}}',
            f"{sky}, {degrees} degrees",
            f'{{"condition": "{sky}", "temperature": {degrees}}}',
            f'{{"temp": {degrees}, "sky": "{sky}"}}',
        )
    )
    return (
        _tool(rng, name, about, properties, [key]),
        question,
        arguments,
        result,
        (f"The weather in {city} is {sky}, {degrees} degrees."),
    )


def _time(rng: Random) -> Example:
    city = place_name(rng)
    name = rng.choice(("get_time", "get_current_time", "clock", "local_time", "time_in_city"))
    key = rng.choice(("city", "location", "place", "timezone"))
    question = rng.choice(
        ("What time is it in {c}?", "Tell me the time in {c}.", "How late is it in {c}?")
    ).format(c=city)
    clock = f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
    tool = _tool(
        rng,
        name,
        rng.choice(("Get the local time of a city.", "Current time")),
        {key: _parameter("string")},
        [key],
    )
    return tool, question, {key: city}, clock, f"In {city} it is {clock}."


def _search(rng: Random) -> Example:
    words = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
    name = rng.choice(("search", "web_search", "search_web", "find_documents", "lookup"))
    key = rng.choice(("query", "q", "text", "terms"))
    question = rng.choice(
        ("Search for {w}.", "Look up {w}.", "Find pages about {w}.", "Search the web for {w}.")
    ).format(w=words)
    count = rng.randint(2, 99)
    tool = _tool(
        rng, name, rng.choice(("Search the web.", "Find documents.")), {key: _parameter("string")}, [key]
    )
    return tool, question, {key: words}, f"{count} results", f"I found {count} results for {words}."


def _email(rng: Random) -> Example:
    person, words = rng.choice(NAMES), " ".join(rng.choices(WORDS, k=rng.randint(2, 4)))
    name = rng.choice(("send_email", "send_message", "write_mail", "send_text"))
    to, body = rng.choice((("to", "body"), ("recipient", "text"), ("person", "message")))
    question = rng.choice(("Send {p} the message: {w}", "Write to {p}: {w}", 'Tell {p} "{w}".')).format(
        p=person, w=words
    )
    tool = _tool(
        rng,
        name,
        "Send a message to a person.",
        {to: _parameter("string"), body: _parameter("string")},
        [to, body],
    )
    return tool, question, {to: person, body: words}, "sent", f"I sent the message to {person}."


def _multiply(rng: Random) -> Example:
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    name = rng.choice(("multiply", "calculate_product", "product", "times"))
    x, y = rng.choice((("a", "b"), ("x", "y"), ("first", "second")))
    question = rng.choice(("What is {a} times {b}?", "Multiply {a} by {b}.", "Compute {a} * {b}.")).format(
        a=a, b=b
    )
    tool = _tool(
        rng, name, "Multiply two numbers.", {x: _parameter("integer"), y: _parameter("integer")}, [x, y]
    )
    return tool, question, {x: a, y: b}, str(a * b), f"{a} * {b} = {a * b}."


def _alarm(rng: Random) -> Example:
    hour, minute = rng.randint(0, 23), rng.choice((0, 15, 30, 45))
    clock = f"{hour}:{minute:02d}"
    name = rng.choice(("set_alarm", "create_alarm", "wake_up", "add_reminder"))
    key = rng.choice(("time", "at", "when"))
    question = rng.choice(("Wake me up at {t}.", "Set an alarm for {t}.", "Set the alarm to {t}.")).format(
        t=clock
    )
    tool = _tool(rng, name, "Set an alarm.", {key: _parameter("string", "The time of day")}, [key])
    return tool, question, {key: clock}, "ok", f"The alarm is set for {clock}."


def _stock(rng: Random) -> Example:
    symbol = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, 4)))
    name = rng.choice(("get_stock_price", "stock_price", "quote", "get_quote"))
    key = rng.choice(("symbol", "ticker"))
    question = rng.choice(
        ("What is the price of {s}?", "What is the stock price of {s}?", "Get a quote for {s}.")
    ).format(s=symbol)
    price = rng.randint(2, 900)
    tool = _tool(rng, name, "Get the price of a stock.", {key: _parameter("string")}, [key])
    return tool, question, {key: symbol}, str(price), f"The price of {symbol} is {price}."


def _music(rng: Random) -> Example:
    artist = place_name(rng) if rng.random() < 0.6 else rng.choice(NAMES)
    name = rng.choice(("play_music", "play", "start_music", "play_artist"))
    key = rng.choice(("artist", "name", "singer"))
    question = rng.choice(("Play music by {a}.", "Play something by {a}.", "I want to hear {a}.")).format(
        a=artist
    )
    tool = _tool(rng, name, "Play music of an artist.", {key: _parameter("string")}, [key])
    return tool, question, {key: artist}, "playing", f"Here is music by {artist}."


def _order(rng: Random) -> Example:
    item, count = rng.choice(WORDS), rng.randint(1, 20)
    name = rng.choice(("order_item", "buy", "add_to_cart", "order"))
    what, many = rng.choice((("item", "quantity"), ("product", "count"), ("article", "amount")))
    question = rng.choice(("Order {n} of {i}.", "Buy {n} times {i}.", "Add {n} {i} to my cart.")).format(
        n=count, i=item
    )
    tool = _tool(
        rng, name, "Order something.", {what: _parameter("string"), many: _parameter("integer")}, [what, many]
    )
    return tool, question, {what: item, many: count}, "done", f"I ordered {count} of {item}."


def _made_up_tool(rng: Random) -> Example:
    name = "_".join(rng.choices(WORDS, k=rng.randint(1, 3)))
    key = rng.choice(WORDS)
    value = place_name(rng)
    question = rng.choice(
        ("Use {n} with {v}.", "Call {n} for {v}.", "Please run {n} on {v}.", "{n} {v}")
    ).format(n=name, v=value)
    tool = _tool(
        rng, name, rng.choice(("", "A tool.", "Does something.")), {key: _parameter("string")}, [key]
    )
    return tool, question, {key: value}, "done", f"I used {name} with {value}."


_MAKERS: tuple[Callable[[Random], Example], ...] = (
    _weather,
    _time,
    _search,
    _email,
    _multiply,
    _alarm,
    _stock,
    _music,
    _order,
    _made_up_tool,
)


def some_tools(rng: Random) -> list[Tool]:
    """One or two tools for a conversation that does not need them."""
    return [rng.choice(_MAKERS)(rng)[0] for _ in range(rng.choice((1, 1, 2)))]


def _parameter(kind: str, description: str = "") -> dict[str, str]:
    return {"type": kind, "description": description} if description else {"type": kind}


def _tool(rng: Random, name: str, about: str, properties: dict[str, Any], required: list[str]) -> Tool:
    function: dict[str, Any] = {"name": name}
    if about:
        function["description"] = about
    function["parameters"] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        function["parameters"]["required"] = required
    if rng.random() < 0.1:
        function["strict"] = False
    tool = {"type": "function", "function": function}
    return _shuffled(rng, tool) if rng.random() < 0.25 else tool


def _shuffled(rng: Random, value: Any) -> Any:
    """`value` with the keys of all its objects in another order: not every caller keeps the order."""
    if not isinstance(value, dict):
        return value
    return {key: _shuffled(rng, value[key]) for key in rng.sample(list(value), len(value))}
