"""How training asks: openings, closings and sentence patterns, one per line.

In a pattern `{n}` is a noun phrase ("the capital of France") and `{q}` a question ("which city is …") about
`{x}`; `{a}` and `{b}` are numbers, `{c}` is a city. A line that stands there twice is drawn twice as often.
"""

from __future__ import annotations


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


OPENERS = _lines("""
    Quick question:
    Hello!
    Hi,
    Hey,
    Please help me:
    I have a question.
    Excuse me,
    For a quiz:
    Just wondering,
    I am curious:
    Help me with my homework.
    So,
    Okay,
    Well,
    My friend wants to know:
    Now tell me:
    Question:
    One more thing:
    Sorry,
    By the way,
    I am learning something new today.
    My brother does not know this:
    I was asked this at school:
    Maybe you know this:
    Let me ask you something:
    Next question:
    And
    I am not sure about this,
    We are playing a game.
    I need this for my work:
    My teacher says it is easy:
    If you know it:
    I am reading a book.
    Look:
    Yesterday somebody asked me this:
""")

CLOSERS = _lines("""
    Thanks!
    Thank you.
    Please answer.
    I want to know.
    Do you know?
    I forgot.
    Be brief.
    Please be quick.
    I am curious.
    It is for a quiz.
    Answer in one sentence.
    Tell me please.
    My son asked me.
    I need to know it today.
    I cannot remember.
    It is for school.
    What would you say?
    Help me.
""")

ABOUT_NOUN = _lines("""
    what is {n}?
    what is {n}?
    what is {n}?
    tell me {n}.
    please tell me {n}.
    can you tell me {n}?
    could you tell me {n}?
    do you know {n}?
    I would like to know {n}.
    I want to know {n}.
    name {n}.
    give me {n}.
    {n}?
    {n}
    please give me {n}.
    say {n}.
    what would you say is {n}?
    what's {n}?
    can you say what {n} is?
    tell me what {n} is.
    do you happen to know what {n} is?
    find {n}.
    does anybody know {n}?
    I wonder what {n} is.
    I need {n}.
    could you find out {n} for me?
    we were talking about {n}, what is it?
    explain what {n} is.
    remind me of {n}.
    {n}, please.
    {n} is what?
    is there a name for {n}, and what is it?
    I do not know {n}.
    I always mix up {n}.
    my sister asked about {n}.
    who can tell me {n}?
    let me know {n}.
    write down {n}.
    what was {n} again?
    what might {n} be?
    how do you call {n}?
    which one is {n}?
    I am writing about {n}, what is it?
    look up {n}.
    if you know {n}, say it.
    I looked for {n} but did not find it.
    we have to learn {n} today.
    answer with {n}.
""")

ABOUT_QUESTION = _lines("""
    {q}?
    {q}?
    {q}?
    {q}?
    {q}
    {q}, please?
    tell me, {q}?
    can you tell me {q}?
    do you know {q}?
    I wonder {q}.
    please tell me {q}.
    I want to know {q}.
    say, {q}?
    what do you think, {q}?
    {q}, do you know?
    {q} again?
    in your opinion, {q}?
    I have to find out {q}.
    {q}, I forgot.
    let me think, {q}?
    and {q}?
    but {q}?
    so {q}?
    actually, {q}?
    I am thinking about this: {x}. {q}?
    my child asks about this, {x}: {q}?
    it is about {x}: {q}?
    we read about it ({x}) today, {q}?
    suppose somebody asks you, {q}?
    if I ask you {q}, what do you answer?
    here it says "{x}", so {q}?
    when I think of it ({x}), I wonder {q}.
    look it up: {q}?
    give me the answer: {q}?
""")

ADD = _lines("""
    What is {a} + {b}?
    What is {a} plus {b}?
    {a}+{b}
    {a} + {b}
    {a} + {b} =
    {a}+{b}=?
    Add {a} and {b}.
    What is the sum of {a} and {b}?
    How much is {a} + {b}?
    Calculate {a} + {b}.
    Compute {a}+{b}.
    How much is {a} plus {b}?
    {a} plus {b}
    Please add {b} to {a}.
    What do you get if you add {b} to {a}?
    What does {a} + {b} equal?
    Sum of {a} and {b}?
    {a} plus {b} is what?
    Work out {a} + {b}.
    What's {a}+{b}?
    What is {a}+{b}?
""")

SUBTRACT = _lines("""
    What is {a} - {b}?
    What is {a} minus {b}?
    {a}-{b}
    {a} - {b}
    Subtract {b} from {a}.
    How much is {a} minus {b}?
    Take {b} away from {a}.
    Calculate {a} - {b}.
    {a} minus {b}
    What is the difference of {a} and {b}?
    What's {a} - {b}?
""")

MULTIPLY = _lines("""
    What is {a} * {b}?
    What is {a} times {b}?
    {a}*{b}
    {a} x {b}
    Multiply {a} by {b}.
    How much is {a} times {b}?
    Calculate {a} * {b}.
    {a} times {b}
    What is the product of {a} and {b}?
""")

AS_JSON = _lines("""
    Make a JSON object with {l}.
    Give me a JSON object with {l}.
    Write JSON with {l}.
    As JSON: {l}
    Return a JSON object that has {l}.
    Convert to JSON: {l}
    Answer in JSON: {l}.
""")

TELL_STORY = _lines("""
    Tell me a story about a {h}.
    Tell me a story about a {h} called {n}.
    Write a short story about a {h}.
    Tell me a short story.
    Write a story.
    Tell me a story.
    Write a long story about a {h}.
    Tell a story about a {h} named {n}.
    I want to hear a story about a {h}.
    Write a story about {n}.
    Tell me a long story.
    Once upon a time...
    Write a poem about a {h}.
    Write about a {h}.
""")

COUNT = _lines("""
    Count from {a} to {b}.
    Count from {a} to {b}.
    Count up from {a} to {b}.
    List the numbers from {a} to {b}.
    Please count from {a} to {b}.
    Write the numbers {a} to {b}.
    Can you count from {a} to {b}?
""")

WEATHER = _lines("""
    What is the weather in {c}?
    What is the weather in {c}?
    What's the weather in {c}?
    What is the weather like in {c}?
    What's the weather like in {c} today?
    How is the weather in {c}?
    How's the weather in {c}?
    Is it raining in {c}?
    Will it rain in {c} tomorrow?
    Is it sunny in {c}?
    Tell me the weather in {c}.
    Weather in {c}?
    weather {c}
    Give me the forecast for {c}.
    What will the weather be in {c}?
    Do I need an umbrella in {c}?
    How warm is it in {c}?
    How cold is it in {c} today?
    Please check the weather in {c}.
    I am going to {c}. What is the weather there?
    What is the temperature in {c}?
    Could you look up the weather for {c}?
    what is the weather in {c}
    Can you tell me what the weather is in {c} right now?
    {c} weather
    What is the weather in {c} today?
""")

# Names and descriptions that weather tools and their parameters have.
WEATHER_TOOL_NAMES = _lines("""
    get_weather
    get_weather
    get_weather
    get_current_weather
    weather
    fetch_weather
    current_weather
    weather_lookup
    lookup_weather
    get_forecast
    forecast
    getWeather
    check_weather
    weather_in_city
""")

WEATHER_TOOL_DESCRIPTIONS = (
    *_lines("""
        Get the weather for a city.
        Get the current weather.
        Get the current weather in a given location
        Returns the weather in a place.
        Look up the weather of a town.
        Current weather
        Weather in a city
        Get weather
        Tells the weather forecast.
    """),
    "",
)

PLACE_DESCRIPTIONS = (
    *("",) * 2,
    *_lines("""
        The city
        Name of the city
        The city name
        City, for example Paris
        The place to look up
        The city and state, e.g. San Francisco, CA
    """),
)
