"""What training never sees: the one place that defines the held-out questions.

Three sets. Phrasings: no training question is an instance of one of these templates. Sums: a held-out pair of
numbers appears in training in neither order, nor as the subtraction that undoes it. Cities: a held-out name
appears nowhere in the training text. `tests/models` checks all three on generated text.
"""

from __future__ import annotations

HELD_OUT_PHRASINGS: dict[str, tuple[str, ...]] = {
    "capital": (
        "I forgot the capital of {x}, which city was it?",
        "Name the city that is the capital of {x}.",
        "My daughter asks what the capital of {x} might be.",
        "{x} has a capital; what is it called?",
        "When I visit the capital of {x}, which city am I in?",
    ),
    "country": (
        "I know that {x} is a capital, but of which country?",
        "Name the country with the capital {x}.",
        "To which country does the capital {x} belong?",
    ),
    "continent": (
        "I am looking at a map: on which continent do I find {x}?",
        "Name the continent that {x} lies on.",
        "{x} is a country on which continent?",
    ),
    "language": (
        "I am moving to {x}, which language should I learn to speak?",
        "Name the language that people speak in {x}.",
        "If you live in {x}, what language do you speak?",
    ),
    "currency": (
        "I travel to {x} next week, which currency will I need?",
        "Name the currency that people in {x} pay with.",
        "Shops in {x} take which currency?",
    ),
    "colour": (
        "I want to paint {x}, which colour should I take?",
        "Name the colour that {x} has.",
        "If you look at {x}, what colour do you see?",
        "Describe the color of {x} in one word.",
    ),
    "sound": (
        "I hear {x}: what sound does it make?",
        "Describe the noise that you hear from {x}.",
        "If {x} makes a sound, what is it?",
    ),
    "young": (
        "I saw a baby {x}, but how is it called?",
        "Which word do we use for a baby {x}?",
        "Give me the right name of a young {x}.",
    ),
    "legs": (
        "If I count the legs of {x}, how many do I get?",
        "How many legs would you draw for {x}?",
        "Count the legs of {x}.",
    ),
    "sides": (
        "If I count the sides of {x}, how many do I get?",
        "How many sides would you draw for {x}?",
        "Count the sides of {x}.",
    ),
    "opposite": (
        "I need a word that is the opposite of {x}.",
        "If it is not {x} but the opposite, what is it?",
        "Name the opposite of {x}, one word only.",
    ),
    "plural": (
        "One {x}, but what is the plural?",
        "Name the word {x} in its plural form.",
        "If there is more than one {x}, which plural do I write?",
    ),
    "past": (
        "I use the verb {x} today, which past tense was it yesterday?",
        "Put the verb {x} into the past tense.",
        "Name the past tense form of {x}.",
    ),
    "symbol": (
        "In the periodic table, which symbol has {x}?",
        "Write down the chemical symbol that chemists use for {x}.",
        "Name the symbol that stands for the element {x}.",
    ),
    "job": (
        "Name the job of somebody who {x}.",
        "If somebody {x}, what is the name of that job?",
        "I am looking for someone who {x}; who is that?",
    ),
    "home": (
        "Name the place that {x} lives in.",
        "If I look for {x} at home, where does it live?",
        "What do we call the home where {x} lives?",
    ),
    "day_after": (
        "{x} is over, which day comes next after it?",
        "Name the day right after {x}.",
    ),
    "day_before": (
        "It is not yet {x}, which day is the one before it?",
        "Name the day right before {x}.",
    ),
    "month_after": (
        "{x} is over, which month comes next after it?",
        "Name the month right after {x}.",
    ),
    "month_before": (
        "It is not yet {x}, which month is the one before it?",
        "Name the month right before {x}.",
    ),
    "month_number": (
        "If I count the months of the year, which is the {x} one?",
        "Name the month that is the {x} of the year.",
    ),
}

HELD_OUT_CITIES: tuple[str, ...] = (
    "Osaka", "Marseille", "Porto", "Krakow", "Seville", "Glasgow", "Rotterdam", "Hamburg", "Naples",
    "Gothenburg", "Bergen", "Geneva", "Antwerp", "Salzburg", "Brno", "Gdansk", "Split", "Thessaloniki",
    "Izmir", "Haifa", "Alexandria", "Casablanca", "Lagos", "Mombasa", "Durban", "Mumbai", "Kolkata",
    "Chennai", "Karachi", "Chittagong", "Chiang Mai", "Da Nang", "Cebu", "Busan", "Nagoya", "Sapporo",
    "Shenzhen", "Chengdu", "Perth", "Adelaide", "Auckland", "Honolulu", "Seattle", "Denver", "Phoenix",
    "Philadelphia", "New Orleans", "San Diego", "Salt Lake City", "Montreal", "Vancouver", "Guadalajara",
    "Medellín", "Guayaquil", "Cusco", "Valparaíso", "São Paulo", "Rio de Janeiro", "Rosario", "Zürich",
)  # fmt: skip


def is_held_out_sum(a: int, b: int) -> bool:
    """Whether a + b (in either order) is kept for evaluation: about one pair of 0..99 in ten."""
    low, high = min(a, b), max(a, b)
    return (low * 7919 + high * 104729) % 1013 % 10 == 3


def held_out_sums() -> list[tuple[int, int]]:
    """All held-out ordered pairs of numbers from 0 to 99."""
    return [(a, b) for a in range(100) for b in range(100) if is_held_out_sum(a, b)]
