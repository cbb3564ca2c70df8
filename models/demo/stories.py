"""Short stories with drawn heroes, places and turns: the long answers of the training text."""

from __future__ import annotations

from random import Random

from models.demo.names import NAMES
from models.demo.phrases import TELL_STORY

_HEROES = (
    *("dragon", "fox", "cat", "dog", "bear", "rabbit", "robot", "wizard"),
    *("princess", "pirate", "knight", "mouse", "owl", "farmer", "sailor", "baker"),
)
_PLACES = (
    "a small village",
    "a dark forest",
    "a big city",
    "an old castle",
    "a house by the sea",
    "a green valley",
)
_FRIENDS = ("bird", "turtle", "horse", "squirrel", "frog", "child", "giant", "ghost", "fish", "goat")
_THINGS = (
    "a golden key",
    "a red ball",
    "an old map",
    "a silver ring",
    "a lost letter",
    "a warm coat",
    "a little boat",
)
_MOODS = ("brave", "kind", "clever", "lonely", "curious", "funny", "hungry", "sleepy")
_WEATHERS = ("the sun was shining", "it was raining", "snow was falling", "a strong wind was blowing")


def story(rng: Random) -> tuple[str, str]:
    """A short story of 60 to 250 tokens about an animal or a person."""
    hero_kind = rng.choice(_HEROES)
    name = rng.choice(NAMES)
    form = rng.choice(TELL_STORY)
    return form.format(h=hero_kind, n=name), _story_text(rng, hero_kind, name, is_long="long" in form)


def _story_text(rng: Random, hero: str, name: str, is_long: bool) -> str:
    place = rng.choice(_PLACES)
    friend_kind = rng.choice(_FRIENDS)
    friend = rng.choice([other for other in NAMES if other != name])
    thing = rng.choice(_THINGS)
    it = thing.split(" ", 1)[1]
    mood = rng.choice(_MOODS)
    weather = rng.choice(_WEATHERS)
    middle = [
        f"{name} looked for {thing} behind every tree and under every stone.",
        f"{friend} the {friend_kind} knew a secret path over the hill.",
        "They walked all day, and in the evening they sat down and ate bread and cheese.",
        "Suddenly they heard a loud noise, but it was only an owl in a tall tree.",
        f'"Do not be afraid," said {friend}. "We are together."',
        "They crossed a cold river and climbed a steep mountain.",
        "At night the moon was bright, and the stars looked like small lamps in the sky.",
        "A wise old woman gave them water and told them where to go.",
        f"{name} was tired, but {friend} sang a happy song.",
    ]
    chosen = sorted(rng.sample(range(len(middle)), rng.randint(6, 9) if is_long else rng.randint(2, 4)))
    end = rng.choice(
        (
            f"In the end they found {thing}, and everybody was happy.",
            f"At last they found the {it}, and they went home together.",
            f"They never found the {it}, but they had found a friend, and that was better.",
            f"From that day on, {name} and {friend} were best friends.",
        )
    )
    return " ".join(
        [
            f"Once upon a time there was a {mood} {hero} called {name} who lived in {place}.",
            f"One morning, when {weather}, {name} met a {friend_kind} whose name was {friend}.",
            f'"I have lost {thing}," said {friend}. "Can you help me?"',
            f'"Of course," said {name}, and they went on their way.',
            *(middle[i] for i in chosen),
            end,
        ]
    )
