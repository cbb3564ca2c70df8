"""The single-turn tasks of the training text: one function a task, which returns a question and its answer.

Every function draws all it needs from the generator that it is given, so the text is a function of the seed.
Answers are canonical: one right text per question, except for stories.
"""

from __future__ import annotations

import json
from random import Random

from models.demo.facts import DAYS, FACT_KINDS, MONTHS, FactKind, capitalised
from models.demo.heldout import is_held_out_sum
from models.demo.names import NAMES, WORDS, place_name
from models.demo.phrases import (
    ABOUT_NOUN,
    ABOUT_QUESTION,
    ADD,
    AS_JSON,
    CLOSERS,
    COUNT,
    MULTIPLY,
    OPENERS,
    SUBTRACT,
)
from models.demo.stories import story

Turn = tuple[str, str]


def fact(rng: Random) -> Turn:
    """A question about one fact, in one of the training phrasings."""
    kind = rng.choices(FACT_KINDS, [len(kind.facts) ** 0.8 for kind in FACT_KINDS])[0]
    x = rng.choice(list(kind.facts))
    question = _polish(rng, _ask_about(rng, kind, x))
    return question.lower() if rng.random() < 0.06 else question, kind.reply(x)


def addition(rng: Random) -> Turn:
    """The sum of two numbers from 0 to 99 that is not held out."""
    while True:
        top_a, top_b = rng.choice(((99, 99), (99, 99), (99, 99), (99, 9), (9, 99), (9, 9)))
        a, b = rng.randint(0, top_a), rng.randint(0, top_b)
        if not is_held_out_sum(a, b):
            break
    form = rng.choice(ADD)
    return _polish(rng, form.format(a=a, b=b)), f"{a} + {b} = {a + b}."


def subtraction(rng: Random) -> Turn:
    """The difference of two numbers from 0 to 99, never the inverse of a held-out sum."""
    while True:
        a, b = sorted((rng.randint(0, 99), rng.randint(0, 99)), reverse=True)
        if not is_held_out_sum(a - b, b):
            break
    form = rng.choice(SUBTRACT)
    return _polish(rng, form.format(a=a, b=b)), f"{a} - {b} = {a - b}."


def multiplication(rng: Random) -> Turn:
    """A product from the tables up to twelve times twelve."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    form = rng.choice(MULTIPLY)
    return _polish(rng, form.format(a=a, b=b)), f"{a} * {b} = {a * b}."


def rewriting(rng: Random) -> Turn:
    """Change a few words: their case, their order, or nothing at all."""
    words = rng.choices(WORDS, k=rng.randint(1, 6))
    if rng.random() < 0.2:
        words[0] = rng.choice(NAMES)
    text = " ".join(words)
    verb, answer = rng.choice(
        (
            ("uppercase", text.upper()),
            ("uppercase", text.upper()),
            ("lowercase", text.lower()),
            ("reverse", " ".join(reversed(words))),
            ("repeat", text),
            ("repeat", text),
        )
    )
    forms = {
        "uppercase": (
            'Write "{t}" in uppercase.',
            "Put this in capital letters: {t}",
            "Uppercase: {t}",
            "Convert to upper case: {t}",
            'Turn "{t}" into capital letters.',
            "Rewrite in uppercase: {t}",
        ),
        "lowercase": ('Write "{t}" in lowercase.', "Lowercase: {t}", "Convert to lower case: {t}"),
        "reverse": (
            "Reverse the order of the words: {t}",
            "Reverse the words: {t}",
            'Write the words of "{t}" in reverse order.',
            "Say these words backwards: {t}",
        ),
        "repeat": ("Repeat after me: {t}", 'Repeat "{t}".', 'Say "{t}".', "Echo: {t}", "Copy this: {t}"),
    }
    shown = text.upper() if verb == "lowercase" else text
    return rng.choice(forms[verb]).format(t=shown), answer


def copying(rng: Random) -> Turn:
    """Repeat made-up names: what teaches the model to copy text that it has never seen."""
    names = [place_name(rng) for _ in range(rng.choice((1, 1, 2, 3, 4)))]
    text = rng.choice((" ", ", ")).join(names)
    form, answer = rng.choice(_COPYING)
    if "{n}" in form:
        text = names[0]
    return form.format(t=text, n=text), answer.format(t=text, n=text)


def json_object(rng: Random) -> Turn:
    """A JSON object with the values that the question names."""
    values: dict[str, str | int | bool] = {}
    fields = rng.sample(
        ("name", "age", "city", "color", "animal", "count", "active", "title", "price", "tags"),
        rng.randint(1, 4),
    )
    for field in fields:
        if field in ("age", "count", "price"):
            values[field] = rng.randint(1, 99)
        elif field == "active":
            values[field] = rng.random() < 0.5
        elif field == "name":
            values[field] = rng.choice(NAMES)
        elif field == "city":
            values[field] = place_name(rng)
        else:
            values[field] = rng.choice(WORDS)
    said = [f"{k} {json.dumps(v) if isinstance(v, bool) else v}" for k, v in values.items()]
    listed = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    form = rng.choice(AS_JSON)
    return form.format(l=listed), json.dumps(values, ensure_ascii=False)


def listing(rng: Random) -> Turn:
    """A long, fully determined answer: counting, the days, the months, a times table."""
    match rng.choice(("count", "count", "count", "count", "down", "days", "months", "table", "alphabet")):
        case "count":
            start = rng.choice((1, 1, 1, 1, rng.randint(0, 20)))
            stop = start + rng.choice(
                (2, 4, 9, 9, 11, 14, 19, 19, 24, 29, 39, 49, 49, 59, 79, 99, rng.randint(2, 60))
            )
            form = rng.choice(COUNT)
            if start == 1 and rng.random() < 0.3:
                form = "Count to {b}."
            return form.format(a=start, b=stop), ", ".join(map(str, range(start, stop + 1))) + "."
        case "down":
            start = rng.randint(3, 30)
            return f"Count down from {start} to 1.", ", ".join(map(str, range(start, 0, -1))) + "."
        case "days":
            form = rng.choice(
                ("List the days of the week.", "What are the days of the week?", "Name the days of the week.")
            )
            return _polish(rng, form), "The days of the week are " + _and(DAYS) + "."
        case "months":
            form = rng.choice(
                (
                    "List the months.",
                    "List the months of the year.",
                    "What are the months of the year?",
                    "Name all months.",
                )
            )
            return _polish(rng, form), "The months of the year are " + _and(MONTHS) + "."
        case "table":
            n = rng.randint(2, 12)
            form = rng.choice(
                ("Write the {n} times table.", "Show me the table of {n}.", "List the {n} times table.")
            )
            return form.format(n=n), "\n".join(f"{n} * {i} = {n * i}" for i in range(1, 11))
        case _:
            form = rng.choice(
                ("Say the alphabet.", "Write the alphabet.", "List the letters of the alphabet.")
            )
            return _polish(
                rng, form
            ), "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y, z."


_COPYING = (
    ("Repeat after me: {t}", "{t}"),
    ('Repeat "{t}".', "{t}"),
    ('Say "{t}".', "{t}"),
    ("Echo: {t}", "{t}"),
    ("Copy this: {t}", "{t}"),
    ("Say {t} twice.", "{t} {t}"),
    ("My name is {n}.", "Nice to meet you, {n}!"),
    ("I am {n}. Say hello to me.", "Hello, {n}!"),
    ("Hello, my name is {n}. What is my name?", "Your name is {n}."),
    ("I live in {n}. Where do I live?", "You live in {n}."),
    ("Put {n} in quotes.", '"{n}"'),
)

_SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey there", "Hello there!", "Hi, nice to meet you."),
        "Hello! How can I help you?",
    ),
    (("Good morning", "Good morning!"), "Good morning! How can I help you?"),
    (("Good evening", "Good evening!"), "Good evening! How can I help you?"),
    (
        ("How are you?", "How are you doing?", "How is it going?", "Are you well?"),
        "I am fine, thank you. How can I help you?",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Are you a robot?",
            "Are you human?",
        ),
        "I am the Tokenwire demo, a small language model.",
    ),
    (
        ("What is your name?", "What's your name?", "How are you called?", "Your name?"),
        "My name is Tokenwire demo.",
    ),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "Help", "What are your skills?"),
        "I can answer simple questions, add numbers, call tools, write JSON and tell short stories.",
    ),
    (("Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Many thanks."), "You are welcome!"),
    (("Bye", "Goodbye", "Goodbye!", "See you later.", "Good night"), "Goodbye!"),
    (
        ("Who made you?", "Who built you?", "Who trained you?", "Where do you come from?"),
        "I was trained from scratch by the Tokenwire project.",
    ),
    (("Test", "test", "This is a test.", "Testing", "ping"), "It works."),
    (
        ("What is Tokenwire?", "Tell me about Tokenwire.", "Explain Tokenwire."),
        "Tokenwire serves large language models as microservices.",
    ),
    (
        ("Tell me a joke.", "Do you know a joke?", "A joke, please."),
        "Why is six afraid of seven? Because seven eight nine.",
    ),
    (("How old are you?", "What is your age?"), "I am a language model, so I have no age."),
    (
        (
            "What is the weather?",
            "What's the weather like?",
            "How is the weather today?",
            "Will it rain tomorrow?",
        ),
        "I cannot look up the weather without a tool.",
    ),
    (
        ("Yes", "Yes.", "No", "No.", "Okay", "OK", "Good", "Great!", "I see."),
        "Is there anything else I can help you with?",
    ),
)


def small_talk(rng: Random) -> Turn:
    """Greetings and questions about the model itself."""
    questions, answer = rng.choice(_SMALL_TALK)
    question = rng.choice(questions)
    return question.lower() if rng.random() < 0.15 else question, answer


def plain_text(rng: Random) -> str:
    """A piece of plain text, without any chat around it: for prompts that are merely continued."""
    match rng.choice(("facts", "facts", "facts", "story", "sums", "listing")):
        case "facts":
            kinds = rng.choices(FACT_KINDS, [len(kind.facts) for kind in FACT_KINDS], k=rng.randint(1, 4))
            return " ".join(kind.reply(rng.choice(list(kind.facts))) for kind in kinds)
        case "story":
            return story(rng)[1]
        case "sums":
            return "\n".join(addition(rng)[1].removesuffix(".") for _ in range(rng.randint(1, 5)))
        case _:
            return listing(rng)[1]


def _ask_about(rng: Random, kind: FactKind, x: str) -> str:
    if rng.random() < 0.5:
        noun = rng.choice(kind.nouns).replace("{x}'s", "{p}").format(x=x, p=_possessive(x))
        return rng.choice(ABOUT_NOUN).format(n=noun)
    question = rng.choice(kind.questions).replace("{x}'s", "{p}").format(x=x, p=_possessive(x))
    return rng.choice(ABOUT_QUESTION).format(q=question, x=x)


def _polish(rng: Random, text: str) -> str:
    """Vary case, punctuation and the words around a question."""
    if rng.random() < 0.75:
        text = capitalised(text)
    if rng.random() < 0.25:
        text = f"{rng.choice(OPENERS)} {text}"
    if rng.random() < 0.15:
        text = f"{text} {rng.choice(CLOSERS)}"
    style = rng.random()
    if style < 0.06:
        text = text.rstrip("?.")
    elif style < 0.08:
        text = text + "?"
    return text


def _possessive(noun: str) -> str:
    return noun + ("'" if noun.endswith("s") else "'s")


def _and(items: tuple[str, ...]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1]
