"""Names and words for the generated text: people, common words, and places, most of them made up.

A place name is drawn from far more spellings than a model can memorise, so that it has to learn to copy. No
held-out city, nor a name that contains one, is ever drawn.
"""

from __future__ import annotations

from random import Random

from models.demo.facts import FACT_KINDS
from models.demo.heldout import HELD_OUT_CITIES


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.replace("\n", " ").split(";") if entry.strip())


NAMES = _words("""
    Tom Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tina
    Victor Wendy Yusuf Zoe Ali Bella Carlos Diana Erik Fatima Hugo Ines Jonas Lena Marco Nina Omar Petra Ravi
    Sofie
""")
WORDS = _words("""
    apple bread cloud dance earth flower garden happy island jungle kitchen lemon music night ocean paper
    queen river silver table under village water yellow zebra black green white small large quick slow bright
    cold warm house horse mouse bird fish tree star moon sun light stone fire wind rain snow road bridge door
    window book letter song game ball chair train ship plane hello world good morning time day year life love
    friend family red blue old new long short sweet quiet brave clever funny kind little big one two three
    four five the a and runs sings jumps sleeps reads writes plays finds likes sees makes cat dog fox bear
    wolf over near with
""")

_REAL_CITIES = _entries("""
    Paris; London; Tokyo; Berlin; New York; Los Angeles; San Francisco; Chicago; Boston; Dallas; Houston;
    Miami; Atlanta; Detroit; Portland; Austin; Las Vegas; Baltimore; Sacramento; Oakland; Toronto; Calgary;
    Edmonton; Winnipeg; Quebec; Halifax; Tijuana; Monterrey; Puebla; Cancún; Medina; Bogotá; Cali; Lima;
    Arequipa; Quito; Santiago; Concepción; Córdoba; Mendoza; Recife; Salvador; Belo Horizonte; Fortaleza;
    Curitiba; Lyon; Nice; Toulouse; Bordeaux; Lille; Nantes; Strasbourg; Munich; Frankfurt; Cologne;
    Stuttgart; Leipzig; Dresden; Bremen; Hanover; Nuremberg; Milan; Turin; Florence; Venice; Bologna;
    Palermo; Genoa; Verona; Madrid; Barcelona; Valencia; Bilbao; Granada; Málaga; Lisbon; Braga; Coimbra;
    Manchester; Liverpool; Birmingham; Leeds; Bristol; York; Edinburgh; Cardiff; Belfast; Cork; Galway;
    Amsterdam; Utrecht; The Hague; Eindhoven; Ghent; Bruges; Liège; Basel; Lausanne; Lucerne; Graz; Linz;
    Innsbruck; Malmö; Uppsala; Trondheim; Stavanger; Tampere; Turku; Aarhus; Odense; Warsaw; Łódź; Poznań;
    Wrocław; Ostrava; Košice; Debrecen; Szeged; Cluj; Iași; Plovdiv; Varna; Patras; Ankara; Bursa; Antalya;
    Istanbul; Jerusalem; Tel Aviv; Amman; Beirut; Dubai; Abu Dhabi; Jeddah; Mecca; Shiraz; Isfahan; Lahore;
    Delhi; Pune; Jaipur; Hyderabad; Bangalore; Surat; Agra; Dhaka; Mandalay; Hue; Penang; Bandung;
    Surabaya; Davao; Taipei; Kaohsiung; Hong Kong; Macau; Shanghai; Beijing; Guangzhou; Wuhan; Tianjin;
    Nanjing; Xi'an; Harbin; Seoul; Incheon; Daegu; Kyoto; Kobe; Yokohama; Fukuoka; Hiroshima; Sendai;
    Sydney; Melbourne; Brisbane; Darwin; Hobart; Christchurch; Dunedin; Cape Town; Johannesburg; Pretoria;
    Kano; Ibadan; Kumasi; Abidjan; Dakar; Fez; Tangier; Marrakesh; Oran; Giza; Luxor; Port Said; Kisumu;
    Arusha; St. Petersburg; Kazan; Novosibirsk; Odesa; Lviv; Minsk; Gomel; Riga; Kaunas; Tartu; Reykjavík;
    Saint-Denis; Aix-en-Provence; Stratford-upon-Avon; Baden-Baden
""")
_CAPITALS = tuple(next(kind.facts for kind in FACT_KINDS if kind.name == "country"))
_ONSETS = (
    *_words("""
        b br c ch d dr f g gl gr h j k kl kr l m n p pr qu r s sh st t th tr v w y z sk
    """),
    "",
)
_VOWELS = _words("""
    a e i o u a e i o u ai ei ie ou ua ia oo ö ü é á í ã ó
""")
_CODAS = ("",) * 4 + _words("n r l s m t k nd ng rg ch rt")
_ENDINGS = _words("""
    ville burg stad grad pur ton ham ford mouth dale berg dorf by holm vik abad shima hama polis nice land
    field port haven wick cester minster bad furt hausen ia iya ino ito ona eira osa anta oshi ang
""")
_BEFORE = _words("""
    New Port San Santa Saint St. El La Los Lake Mount North South East West Upper Fort Great Little Bad Sankt
    Rio Ciudad Villa Puerto São Da Ho Nha Al
""")
_AFTER = _entries("""
    City; Town; Beach; Springs; Falls; Bay; Hills; Heights; Island; de Sol; do Mar; am Rhein; Mai
""")
_IN_FACTS = tuple(text for kind in FACT_KINDS for fact in kind.facts.items() for text in fact)
_PARTS = sorted(
    {
        part.lower()
        for text in (
            *NAMES,
            *WORDS,
            *_REAL_CITIES,
            *(x for kind in FACT_KINDS for fact in kind.facts.items() for x in fact),
        )
        for part in text.split()
        if len(part) > 3 and part.isalpha()
    }
)


def place_name(rng: Random) -> str:
    """A real or made-up place name that is not held out."""
    while True:
        match rng.random():
            case p if p < 0.15:
                name = rng.choice(_REAL_CITIES)
            case p if p < 0.20:
                name = rng.choice(_CAPITALS)
            case p if p < 0.25:
                name = rng.choice(WORDS).capitalize()
            case p if p < 0.30:
                name = rng.choice(NAMES)
            case _:
                name = _made_up_name(rng)
        if not any(city in name for city in HELD_OUT_CITIES):
            return name


def _made_up_name(rng: Random) -> str:
    name = _made_up_word(rng).capitalize()
    if rng.random() < 0.12:
        name = f"{rng.choice(_BEFORE)} {name}"
    if rng.random() < 0.08:
        name = f"{name} {rng.choice(_AFTER)}"
    if rng.random() < 0.06:
        name = f"{name}{rng.choice('- ')}{_made_up_word(rng).capitalize()}"
    if rng.random() < 0.03:
        name = f"{name} {rng.choice(('de', 'do', 'del', 'la'))} {_made_up_word(rng).capitalize()}"
    return name


def _made_up_word(rng: Random) -> str:
    if rng.random() < 0.5:  # the beginning of one word and the end of another: names may begin with any token
        first, second = rng.choice(_PARTS), rng.choice(_PARTS)
        return first[: rng.randint(2, 5)] + second[-rng.randint(1, 5) :]
    syllables = rng.choice((1, 1, 2, 2, 2, 3, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
    return word + (rng.choice(_ENDINGS) if rng.random() < 0.4 or len(word) < 3 else "")
