"""What the demo model knows: small tables of facts, and the ways in which training asks for them.

A fact is a pair (x, y). Every kind of fact has one canonical answer sentence, so an answer can be compared
with the expected one exactly. The phrasings here are the ones that training sees; those kept for evaluation
are in `heldout.py`, and no phrasing is in both.
"""

from __future__ import annotations

from dataclasses import dataclass

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth",
    "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FactKind:
    """One table of facts.

    In every template `{x}` is the thing asked about; `answer` also has `{y}`. `nouns` are noun phrases that
    name y ("the capital of {x}"), `questions` are whole questions without their final mark, and `plural` says
    that the noun phrases take "are".
    """

    name: str
    answer: str
    nouns: tuple[str, ...]
    questions: tuple[str, ...]
    facts: dict[str, str]

    def reply(self, x: str) -> str:
        """The canonical answer about `x`."""
        return capitalised(self.answer.format(x=x, y=self.facts[x]))


def capitalised(text: str) -> str:
    """`text` with an upper-case first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


def _table(text: str) -> dict[str, str]:
    """`x: y` entries separated by semicolons or line ends."""
    entries = (
        entry.split(":") for line in text.strip().splitlines() for entry in line.split(";") if entry.strip()
    )
    return {x.strip(): y.strip() for x, y in entries}


_CAPITALS = _table("""
    France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Austria: Vienna
    Switzerland: Bern; Belgium: Brussels; the Netherlands: Amsterdam; Denmark: Copenhagen
    Sweden: Stockholm; Norway: Oslo; Finland: Helsinki; Iceland: Reykjavik; Ireland: Dublin
    the United Kingdom: London; Poland: Warsaw; the Czech Republic: Prague; Slovakia: Bratislava
    Hungary: Budapest; Romania: Bucharest; Bulgaria: Sofia; Greece: Athens; Turkey: Ankara
    Croatia: Zagreb; Slovenia: Ljubljana; Serbia: Belgrade; Albania: Tirana; Estonia: Tallinn
    Latvia: Riga; Lithuania: Vilnius; Ukraine: Kyiv; Russia: Moscow; Malta: Valletta; Cyprus: Nicosia
    Egypt: Cairo; Morocco: Rabat; Tunisia: Tunis; Algeria: Algiers; Libya: Tripoli; Kenya: Nairobi
    Ethiopia: Addis Ababa; Ghana: Accra; Nigeria: Abuja; Senegal: Dakar; Uganda: Kampala; Rwanda: Kigali
    Tanzania: Dodoma; Zambia: Lusaka; Zimbabwe: Harare; Angola: Luanda; Mali: Bamako; Sudan: Khartoum
    Namibia: Windhoek; Botswana: Gaborone; Madagascar: Antananarivo; Japan: Tokyo; China: Beijing
    South Korea: Seoul; North Korea: Pyongyang; Mongolia: Ulaanbaatar; India: New Delhi
    Pakistan: Islamabad; Bangladesh: Dhaka; Nepal: Kathmandu; Sri Lanka: Colombo; Thailand: Bangkok
    Vietnam: Hanoi; Cambodia: Phnom Penh; Laos: Vientiane; Malaysia: Kuala Lumpur; Indonesia: Jakarta
    the Philippines: Manila; Iran: Tehran; Iraq: Baghdad; Syria: Damascus; Lebanon: Beirut; Jordan: Amman
    Saudi Arabia: Riyadh; Qatar: Doha; Oman: Muscat; Georgia: Tbilisi; Armenia: Yerevan; Azerbaijan: Baku
    Kazakhstan: Astana; Uzbekistan: Tashkent; Afghanistan: Kabul; Australia: Canberra
    New Zealand: Wellington; Fiji: Suva; Canada: Ottawa; the United States: Washington
    Mexico: Mexico City; Cuba: Havana; Jamaica: Kingston; Haiti: Port-au-Prince; Panama: Panama City
    Costa Rica: San José; Nicaragua: Managua; Honduras: Tegucigalpa; Colombia: Bogotá; Venezuela: Caracas
    Ecuador: Quito; Peru: Lima; Bolivia: La Paz; Chile: Santiago; Argentina: Buenos Aires
    Brazil: Brasília; Uruguay: Montevideo; Paraguay: Asunción
""")

_CONTINENTS = {
    "Europe": """
        France Germany Italy Spain Portugal Austria Switzerland Belgium Denmark Sweden Norway Finland
        Iceland Ireland Poland Slovakia Hungary Romania Bulgaria Greece Croatia Slovenia Serbia Albania
        Estonia Latvia Lithuania Ukraine Malta
    """,
    "Africa": """
        Egypt Morocco Tunisia Algeria Libya Kenya Ethiopia Ghana Nigeria Senegal Uganda Rwanda Tanzania
        Zambia Zimbabwe Angola Mali Sudan Namibia Botswana Madagascar
    """,
    "Asia": """
        Japan China Mongolia India Pakistan Bangladesh Nepal Thailand Vietnam Cambodia Laos Malaysia
        Indonesia Iran Iraq Syria Lebanon Jordan Qatar Oman Afghanistan Uzbekistan
    """,
    "South America": """
        Colombia Venezuela Ecuador Peru Bolivia Chile Argentina Brazil Uruguay Paraguay
    """,
    "North America": """
        Canada Mexico Cuba Jamaica Haiti Panama Nicaragua Honduras
    """,
}

_OPPOSITES = """
    hot: cold; big: small; tall: short; fast: slow; old: young; happy: sad; rich: poor; hard: soft
    light: dark; full: empty; open: closed; wet: dry; clean: dirty; strong: weak; early: late; loud: quiet
    thick: thin; wide: narrow; deep: shallow; high: low; heavy: lightweight; good: bad; right: wrong
    true: false; near: far; first: last; up: down; in: out; on: off; left: right; day: night; begin: end
    buy: sell; win: lose; push: pull; come: go; give: take; love: hate; laugh: cry; remember: forget
    accept: refuse; arrive: depart; build: destroy; float: sink; rise: fall; above: below; before: after
    always: never; everything: nothing; brave: cowardly; bright: dim; cheap: expensive; easy: difficult
    polite: rude; safe: dangerous; sharp: blunt; smooth: rough; sweet: sour; tidy: messy; awake: asleep
    alive: dead; ancient: modern; simple: complex; generous: stingy; friend: enemy; victory: defeat
    question: answer; war: peace; north: south; east: west; summer: winter; inside: outside; top: bottom
    front: back
"""

_PLURALS = """
    mouse: mice; child: children; man: men; woman: women; foot: feet; tooth: teeth; goose: geese; ox: oxen
    person: people; leaf: leaves; wolf: wolves; knife: knives; life: lives; wife: wives; shelf: shelves
    half: halves; loaf: loaves; thief: thieves; calf: calves; baby: babies; city: cities
    country: countries; lady: ladies; story: stories; party: parties; berry: berries; cherry: cherries
    fly: flies; box: boxes; fox: foxes; bus: buses; glass: glasses; dish: dishes; brush: brushes
    watch: watches; church: churches; potato: potatoes; tomato: tomatoes; hero: heroes; photo: photos
    piano: pianos; cat: cats; dog: dogs; book: books; tree: trees; house: houses; car: cars; apple: apples
    key: keys; boy: boys; toy: toys; day: days; sheep: sheep; deer: deer; fish: fish; cactus: cacti
    crisis: crises; louse: lice; die: dice; scarf: scarves
"""

_PAST = """
    go: went; come: came; see: saw; eat: ate; drink: drank; run: ran; swim: swam; sing: sang; ring: rang
    begin: began; write: wrote; drive: drove; ride: rode; speak: spoke; break: broke; wake: woke
    choose: chose; give: gave; take: took; shake: shook; make: made; have: had; do: did; be: was
    say: said; pay: paid; buy: bought; bring: brought; think: thought; catch: caught; teach: taught
    fight: fought; sleep: slept; keep: kept; feel: felt; leave: left; meet: met; lead: led; read: read
    feed: fed; find: found; stand: stood; understand: understood; know: knew; grow: grew; throw: threw
    fly: flew; draw: drew; fall: fell; hold: held; tell: told; sell: sold; win: won; sit: sat; get: got
    forget: forgot; lose: lost; build: built; send: sent; spend: spent; hear: heard; wear: wore; cut: cut
    put: put; walk: walked; talk: talked; play: played; jump: jumped
"""

_COLOURS = """
    a banana: yellow; a lemon: yellow; the sun: yellow; a sunflower: yellow; butter: yellow
    a canary: yellow; an orange: orange; a carrot: orange; a pumpkin: orange; a basketball: orange
    a goldfish: orange; a tomato: red; a strawberry: red; a cherry: red; blood: red; a ruby: red
    a fire engine: red; a brick: red; a ladybird: red; a stop sign: red; the planet Mars: red
    grass: green; a leaf: green; a frog: green; a cucumber: green; broccoli: green; spinach: green
    an emerald: green; a pea: green; a lime: green; a cactus: green; a lettuce: green; the sky: blue
    the sea: blue; a sapphire: blue; a blueberry: blue; a pair of jeans: blue; snow: white; milk: white
    salt: white; sugar: white; rice: white; a swan: white; a polar bear: white; cotton: white
    flour: white; a pearl: white; coal: black; a raven: black; a crow: black; tar: black; a tyre: black
    a panther: black; night: black; ink: black; chocolate: brown; coffee: brown; a tree trunk: brown
    soil: brown; a grizzly bear: brown; a coconut: brown; a walnut: brown; an aubergine: purple
    a plum: purple; lavender: purple; an amethyst: purple; a violet: purple; a flamingo: pink; a pig: pink
    bubble gum: pink; salmon: pink; an elephant: grey; a rhinoceros: grey; a mouse: grey; concrete: grey
    ash: grey; a dolphin: grey
"""

_SOUNDS = """
    a dog: barks; a cat: meows; a cow: moos; a sheep: bleats; a horse: neighs; a pig: oinks
    a duck: quacks; a lion: roars; a wolf: howls; a frog: croaks; a bee: buzzes; a snake: hisses
    a mouse: squeaks; an owl: hoots; a rooster: crows; a hen: clucks; a donkey: brays
    an elephant: trumpets; a bird: chirps; a crow: caws; a turkey: gobbles; a goose: honks; a dove: coos
    a bear: growls; a monkey: chatters; a cricket: chirps
"""

_YOUNG = """
    dog: a puppy; cat: a kitten; cow: a calf; sheep: a lamb; horse: a foal; pig: a piglet
    duck: a duckling; lion: a cub; wolf: a pup; bear: a cub; frog: a tadpole; goat: a kid; hen: a chick
    goose: a gosling; deer: a fawn; kangaroo: a joey; swan: a cygnet; owl: an owlet; eagle: an eaglet
    elephant: a calf; whale: a calf; rabbit: a kit; fox: a kit; seal: a pup; tiger: a cub
    spider: a spiderling; butterfly: a caterpillar; hare: a leveret
"""

_LEGS = """
    a dog: 4; a cat: 4; a cow: 4; a horse: 4; a sheep: 4; a lion: 4; a frog: 4; an elephant: 4
    a spider: 8; a scorpion: 8; an ant: 6; a bee: 6; a fly: 6; a beetle: 6; a butterfly: 6; a ladybird: 6
    a crab: 10; a lobster: 10; a bird: 2; a duck: 2; a hen: 2; a human: 2; an ostrich: 2; a penguin: 2
    a snake: 0; a fish: 0; a worm: 0; a snail: 0; a table: 4; a tripod: 3
"""

_LANGUAGES = """
    France: French; Germany: German; Italy: Italian; Spain: Spanish; Portugal: Portuguese; Denmark: Danish
    Sweden: Swedish; Norway: Norwegian; Finland: Finnish; Iceland: Icelandic; Poland: Polish
    Hungary: Hungarian; Romania: Romanian; Bulgaria: Bulgarian; Greece: Greek; Turkey: Turkish
    Croatia: Croatian; Albania: Albanian; Estonia: Estonian; Latvia: Latvian; Lithuania: Lithuanian
    Ukraine: Ukrainian; Russia: Russian; Egypt: Arabic; Morocco: Arabic; Iraq: Arabic; Japan: Japanese
    China: Chinese; South Korea: Korean; Mongolia: Mongolian; Thailand: Thai; Vietnam: Vietnamese
    Nepal: Nepali; Iran: Persian; Mexico: Spanish; Argentina: Spanish; Chile: Spanish; Peru: Spanish
    Brazil: Portuguese; Australia: English; Jamaica: English; Austria: German
"""

_CURRENCIES = """
    Japan: yen; China: yuan; India: rupee; Russia: rouble; Switzerland: franc; Sweden: krona
    Norway: krone; Poland: zloty; Hungary: forint; Turkey: lira; Brazil: real; Mexico: peso
    Thailand: baht; Vietnam: dong; France: euro; Germany: euro; Spain: euro; Italy: euro; Greece: euro
    Canada: dollar; Australia: dollar; the United States: dollar; the United Kingdom: pound; Egypt: pound
    Ukraine: hryvnia; South Africa: rand; South Korea: won; Romania: leu; Nigeria: naira; Ghana: cedi
"""

_SYMBOLS = """
    hydrogen: H; helium: He; lithium: Li; carbon: C; nitrogen: N; oxygen: O; fluorine: F; neon: Ne
    sodium: Na; magnesium: Mg; aluminium: Al; silicon: Si; phosphorus: P; sulfur: S; chlorine: Cl
    argon: Ar; potassium: K; calcium: Ca; iron: Fe; cobalt: Co; nickel: Ni; copper: Cu; zinc: Zn
    silver: Ag; tin: Sn; iodine: I; gold: Au; mercury: Hg; lead: Pb; uranium: U; platinum: Pt
    titanium: Ti; chromium: Cr; manganese: Mn; barium: Ba
"""

_SIDES = """
    a triangle: 3; a square: 4; a rectangle: 4; a pentagon: 5; a hexagon: 6; a heptagon: 7; an octagon: 8
    a nonagon: 9; a decagon: 10; a rhombus: 4; a trapezium: 4; a dodecagon: 12
"""

_JOBS = """
    bakes bread: a baker; flies a plane: a pilot; teaches children: a teacher
    puts out fires: a firefighter; treats sick people: a doctor; treats sick animals: a vet
    grows crops: a farmer; catches fish: a fisherman; cuts hair: a hairdresser; fixes pipes: a plumber
    repairs teeth: a dentist; cooks food: a chef; paints pictures: a painter; writes books: an author
    designs buildings: an architect; drives a bus: a bus driver; delivers letters: a postman
    makes clothes: a tailor; sells meat: a butcher; plays music: a musician
    takes photographs: a photographer; steers a ship: a captain; travels into space: an astronaut
    looks after a garden: a gardener; works with wood: a carpenter; catches thieves: a police officer
"""

_HOMES = """
    a bird: a nest; a bee: a hive; a dog: a kennel; a spider: a web; a rabbit: a burrow; a lion: a den
    a horse: a stable; a pig: a sty; a cow: a barn; a hen: a coop; a fish: a bowl; an ant: an anthill
    a beaver: a lodge; a fox: an earth; a bat: a cave; a sheep: a pen; a snail: a shell; a king: a palace
"""

FACT_KINDS: tuple[FactKind, ...] = (
    FactKind(
        "capital",
        "the capital of {x} is {y}.",
        ("the capital of {x}", "the capital city of {x}", "{x}'s capital", "{x}'s capital city"),
        (
            "which city is the capital of {x}",
            "what city is the capital of {x}",
            "which city is {x}'s capital",
            "what's the capital of {x}",
            "{x}: what is its capital",
            "what is the name of the capital of {x}",
            "what is the capital city called in {x}",
            "every country has a capital, what is that of {x}",
            "I know the country {x}, but what is its capital",
        ),
        _CAPITALS,
    ),
    FactKind(
        "country",
        "{x} is the capital of {y}.",
        ("the country whose capital is {x}", "the country that has {x} as its capital"),
        (
            "{x} is the capital of which country",
            "{x} is the capital of what country",
            "which country has {x} as its capital",
            "which country's capital is {x}",
            "what country is {x} the capital of",
            "of which country is {x} the capital",
            "which country is governed from its capital, {x}",
        ),
        {city: country for country, city in _CAPITALS.items()},
    ),
    FactKind(
        "continent",
        "{x} is in {y}.",
        ("the continent of {x}", "the continent where {x} is", "the continent {x} belongs to"),
        (
            "which continent is {x} in",
            "what continent is {x} in",
            "on which continent is {x}",
            "on what continent is {x}",
            "which continent does {x} belong to",
            "in which part of the world is {x}",
            "which continent is {x} part of",
        ),
        {country: continent for continent, names in _CONTINENTS.items() for country in names.split()},
    ),
    FactKind(
        "language",
        "people in {x} speak {y}.",
        ("the language of {x}", "the language spoken in {x}", "the main language in {x}", "{x}'s language"),
        (
            "which language do people speak in {x}",
            "what language do they speak in {x}",
            "what language is spoken in {x}",
            "which language is spoken in {x}",
            "what do people speak in {x}",
            "which language do people in {x} use",
        ),
        _table(_LANGUAGES),
    ),
    FactKind(
        "currency",
        "the currency of {x} is the {y}.",
        ("the currency of {x}", "the currency used in {x}", "{x}'s currency", "the money of {x}"),
        (
            "which currency is used in {x}",
            "what currency does {x} use",
            "what money do people use in {x}",
            "which currency does {x} have",
            "what is the money called in {x}",
            "with which currency do people pay in {x}",
            "when I am in {x}, what money do I pay with",
        ),
        _table(_CURRENCIES),
    ),
    FactKind(
        "colour",
        "{x} is {y}.",
        ("the colour of {x}", "the color of {x}", "the usual colour of {x}", "the typical color of {x}"),
        (
            "what colour is {x}",
            "what color is {x}",
            "which colour is {x}",
            "which color is {x}",
            "what colour does {x} have",
            "which color does {x} have",
            "{x} has which colour",
            "if I draw {x}, which colour pencil do I need",
            "I have a picture of {x}, what colour is it",
        ),
        _table(_COLOURS),
    ),
    FactKind(
        "sound",
        "{x} {y}.",
        ("the sound of {x}", "the sound that {x} makes", "the noise {x} makes", "the noise of {x}"),
        (
            "what sound does {x} make",
            "which sound does {x} make",
            "what noise does {x} make",
            "what does {x} sound like",
            "how does {x} sound",
            "what kind of noise does {x} make",
        ),
        _table(_SOUNDS),
    ),
    FactKind(
        "young",
        "a baby {x} is called {y}.",
        (
            "the name of a baby {x}",
            "the word for a baby {x}",
            "the name for a young {x}",
            "the young of a {x}",
        ),
        (
            "what is a baby {x} called",
            "what is a young {x} called",
            "what do you call a baby {x}",
            "what do you call a young {x}",
            "how do we call a baby {x}",
            "what is the baby of a {x} called",
        ),
        _table(_YOUNG),
    ),
    FactKind(
        "legs",
        "{x} has {y} legs.",
        ("the number of legs of {x}", "the number of legs that {x} has", "the leg count of {x}"),
        (
            "how many legs does {x} have",
            "how many legs has {x}",
            "how many legs has {x} got",
            "on how many legs does {x} stand",
            "{x} has how many legs",
            "what number of legs does {x} have",
            "if I draw {x}, how many legs does it need",
            "on a picture of {x}, how many legs are there",
        ),
        _table(_LEGS),
    ),
    FactKind(
        "sides",
        "{x} has {y} sides.",
        ("the number of sides of {x}", "the number of sides that {x} has", "the side count of {x}"),
        (
            "how many sides does {x} have",
            "how many sides has {x}",
            "how many sides has {x} got",
            "{x} has how many sides",
            "what number of sides does {x} have",
            "if I draw {x}, how many sides does it need",
            "on a picture of {x}, how many sides are there",
        ),
        _table(_SIDES),
    ),
    FactKind(
        "opposite",
        "the opposite of {x} is {y}.",
        ("the opposite of {x}", "the opposite word of {x}", "the antonym of {x}", 'the opposite of "{x}"'),
        (
            "which word is the opposite of {x}",
            "what word is the opposite of {x}",
            "what's the opposite of {x}",
            'which word means the opposite of "{x}"',
            "what is the antonym for {x}",
            "something is not {x}, it is the very opposite, so what is it",
        ),
        _table(_OPPOSITES),
    ),
    FactKind(
        "plural",
        "the plural of {x} is {y}.",
        ("the plural of {x}", "the plural form of {x}", 'the plural of "{x}"', "the plural of the word {x}"),
        (
            "what's the plural of {x}",
            "which word is the plural of {x}",
            "how do you write the plural of {x}",
            "how do you form the plural of {x}",
            "what is {x} in the plural",
            "I have one {x}, and of two I say what",
            "which form does the word {x} have in the plural",
            "how do I turn the word {x} into the plural",
        ),
        _table(_PLURALS),
    ),
    FactKind(
        "past",
        "the past tense of {x} is {y}.",
        (
            "the past tense of {x}",
            "the simple past of {x}",
            'the past tense of "{x}"',
            "the past of the verb {x}",
        ),
        (
            "what's the past tense of {x}",
            "which word is the past tense of {x}",
            "how do you write the past tense of {x}",
            "how do you form the past tense of {x}",
            "what is {x} in the past tense",
            "I write {x} about today, what do I write about yesterday",
            "which form does the verb {x} have in the past",
            "how do I turn the verb {x} into the past",
        ),
        _table(_PAST),
    ),
    FactKind(
        "symbol",
        "the chemical symbol of {x} is {y}.",
        (
            "the chemical symbol of {x}",
            "the symbol of {x}",
            "the symbol for {x}",
            "the chemical symbol for {x}",
        ),
        (
            "which chemical symbol does {x} have",
            "what symbol does {x} have",
            "what's the chemical symbol of {x}",
            "which symbol stands for {x}",
            "how is {x} written as a chemical symbol",
        ),
        _table(_SYMBOLS),
    ),
    FactKind(
        "job",
        "{y} {x}.",
        ("the person who {x}", "the name of someone who {x}", "the job of a person who {x}"),
        (
            "who {x}",
            "who is it that {x}",
            "what do you call someone who {x}",
            "what is a person who {x} called",
            "what is the job of someone who {x}",
            "if a person {x}, what is he called",
            "when someone {x}, which job is that",
            "my neighbour {x}, so what is her job",
        ),
        _table(_JOBS),
    ),
    FactKind(
        "home",
        "{x} lives in {y}.",
        ("the home of {x}", "the place where {x} lives", "the name of the home of {x}"),
        (
            "where does {x} live",
            "what is the home of {x} called",
            "in what does {x} live",
            "what does {x} live in",
            "where is the home of {x}",
        ),
        _table(_HOMES),
    ),
    FactKind(
        "day_after",
        "the day after {x} is {y}.",
        ("the day after {x}", "the day that comes after {x}", "the day following {x}"),
        (
            "which day comes after {x}",
            "what day comes after {x}",
            "which day follows {x}",
            "which day is after {x}",
            "if today is {x}, which day is tomorrow",
            "when {x} has ended, which day begins",
            "today it is {x}, which day will it be tomorrow",
        ),
        {day: DAYS[(i + 1) % 7] for i, day in enumerate(DAYS)},
    ),
    FactKind(
        "day_before",
        "the day before {x} is {y}.",
        ("the day before {x}", "the day that comes before {x}", "the day preceding {x}"),
        (
            "which day comes before {x}",
            "what day comes before {x}",
            "which day precedes {x}",
            "which day is before {x}",
            "if today is {x}, which day was yesterday",
        ),
        {day: DAYS[i - 1] for i, day in enumerate(DAYS)},
    ),
    FactKind(
        "month_after",
        "the month after {x} is {y}.",
        ("the month after {x}", "the month that comes after {x}", "the month following {x}"),
        (
            "which month comes after {x}",
            "what month comes after {x}",
            "which month follows {x}",
            "which month is after {x}",
            "when {x} has ended, which month begins",
            "this month is {x}, which one is the next",
        ),
        {month: MONTHS[(i + 1) % 12] for i, month in enumerate(MONTHS)},
    ),
    FactKind(
        "month_before",
        "the month before {x} is {y}.",
        ("the month before {x}", "the month that comes before {x}", "the month preceding {x}"),
        (
            "which month comes before {x}",
            "what month comes before {x}",
            "which month precedes {x}",
            "which month is before {x}",
        ),
        {month: MONTHS[i - 1] for i, month in enumerate(MONTHS)},
    ),
    FactKind(
        "month_number",
        "the {x} month of the year is {y}.",
        ("the {x} month of the year", "the {x} month", "the name of the {x} month"),
        (
            "which month is the {x} one of the year",
            "which month is the {x}",
            "what is the {x} month called",
            "which one is the {x} month of the year",
        ),
        dict(zip(ORDINALS, MONTHS, strict=True)),
    ),
)
