"""The training material of `ner`: labelled English sentences made from templates and name lists.

`Generator(part, seed)` draws from one part of the material. Templates and names are divided before anything is
drawn: a name of the "held_out" part (about one in seven, by a checksum of its spelling) and a template of
`templates.HELD_OUT` never occur in the "train" part, so a score on "held_out" is a score on unseen names in unseen
frames. Made-up names follow the same checksum rule.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from . import lexicon as lex
from .templates import HELD_OUT, TRAIN

T = TypeVar("T")
Part = Literal["train", "held_out"]
Piece = tuple[str, str | None]  # text, entity type or None


class Sentence(NamedTuple):
    """A labelled text: spans are (start, end, entity) in characters, in order, not overlapping."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


# What the sentences of tests/models/test_ner.py look like with their entities replaced by types. No training
# sentence may look like that, so the test stays a test.
RESERVED = frozenset(
    line.strip()
    for line in """
per visited loc in date.
org opened an office in loc in date.
my sister per works for org.
we fly to loc on date.
per is the head of org.
the meeting with org is on date.
per was born in loc.
org and org are from loc.
i met per and per in loc.
the org is older than loc.
org hired per in date.
per moved from loc to loc in date.
nothing happens here today, she said.
please call per at org.
org bought org in date.
per lives in loc.
the train to loc leaves date.
org were from loc.
per joined org last year.
i like apples and green tea.
per met per in loc in date.
""".strip().splitlines()
)

_PLAIN = frozenset(
    word.lower() for words in (lex.NOUNS, lex.ADJECTIVES, lex.VERBS, lex.INFINITIVES, lex.OPENERS) for word in words
)
_FAMOUS = frozenset(
    name.lower() for names in (lex.FAMOUS_CITIES, lex.FAMOUS_COUNTRIES, lex.FAMOUS_COMPANIES) for name in names
)
# Places that take an article in running text; the article is not part of the name.
_WITH_THE = re.compile(
    r"(Netherlands|United .*|Czech Republic|Dominican Republic|Ivory Coast|Philippines|Maldives|Balkans|Caucasus"
    r"|Basque Country|Middle East|Azores|Alps|Himalayas|Andes|Pyrenees|Rocky Mountains|Carpathians|Sahara|Matterhorn"
    r"|Nile|Danube|Rhine|Seine|Volga|Ganges|Mekong|Yangtze|Zambezi|USA|UK|U\.S\.|Mediterranean|Isle .*|Gulf .*"
    r"|Bay of .*|.* (Desert|River|Sea|Ocean|Channel|Canal|Canyon|Islands)|River .*)"
)
_AGENCY_WITH_THE = re.compile(
    r"(WHO|IMF|WTO|OECD|IOC|NBA|NFL|NHL|KGB|NSA|FDA|EPA|IRS|NHS|NYPD|LAPD|IAEA|FBI|CIA|UN|EU|BBC|United .*|European .*"
    r"|World .*|Red Cross|Salvation .*|International .*|African .*|Arab .*|Federal .*|Supreme .*|Senate|House .*"
    r"|Pentagon|White House|Kremlin|Bundestag|Knesset|Royal .*|.* Party|Ministry .*|Department .*|Bank of .*"
    r"|British Museum|Louvre|Smithsonian .*|Max .*|Institut .*|Metropolitan .*|Vienna .*|Los Angeles .*|Boston .*"
    r"|Chicago .*|New York .*|Dallas .*|Toronto .*|Mayo .*|Sorbonne|Coast Guard|National .*|Civil .*|Food .*|Census .*)"
)
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_RELATIVE = lex.names("""
today, now, tonight, here, again, last year, last week, last month, last night, next year, next week, this morning,
this year, this week, later, soon, at home, every day, all day, right now, these days, two years ago, a week ago,
in the morning, at night, once more, for now, at noon, after lunch
""")
_JOBS = lex.names("""
teacher, doctor, nurse, lawyer, engineer, farmer, baker, driver, pilot, soldier, painter, singer, actor, writer, poet,
judge, manager, secretary, director, scientist, programmer, researcher, professor, student, politician, minister,
journalist, reporter, footballer, player, coach, composer, pianist, dancer, designer, architect, chemist, physicist,
mathematician, economist, historian, philosopher, consultant, analyst, spokesman, chairman, president, senator, chef
""")


def split(name: str) -> Part:
    """Which part of the material a name belongs to: by a checksum of its spelling, case ignored."""
    return "held_out" if zlib.crc32(name.lower().encode()) % 7 == 0 else "train"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


class Generator:
    """Draws labelled sentences, the same ones for the same part and seed."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part: Part = part
        self.random = random.Random(seed)
        self.templates = TRAIN if part == "train" else HELD_OUT
        self.first = self._of_part(lex.FIRST_NAMES)
        self.last = self._of_part(lex.LAST_NAMES)
        self.cities = self._of_part(lex.CITIES)
        self.regions = self._of_part(lex.REGIONS)
        self.features = self._of_part(lex.FEATURES)
        self.companies = self._of_part(lex.COMPANIES)
        self.agencies = self._of_part(lex.AGENCIES)
        self.bands = self._of_part(lex.BANDS)
        self.bands_plain = self._of_part(lex.BANDS_PLAIN)
        self._slots: dict[str, Callable[[], list[Piece]]] = {
            "P": lambda: [(self.person(), "PER")],
            "F": lambda: [(self.full_name(), "PER")],
            "G": lambda: [(self.first_name(), "PER")],
            "T": lambda: [(self.titled(), "PER")],
            "O": self.organisation,
            "C": lambda: [(self.company(), "ORG")],
            "B": lambda: [(self.band(), "ORG")],
            "L": self.place,
            "K": lambda: [(self.settlement(), "LOC")],
            "M": lambda: [(self.month_or_year(), "DATE")],
            "Y": lambda: [(self.year(), "DATE")],
            "W": lambda: [(self.day(), "DATE")],
            "R": lambda: [(self._pick(("tomorrow", "yesterday")), "DATE")],
            "DATE": lambda: [(self._pick((self.month_or_year, self.day))(), "DATE")],
            "when": self.when,
            "n": lambda: [(self._plain(lex.NOUNS, lex.NOUN_ENDINGS), None)],
            "ns": lambda: [(_plural(self._plain(lex.NOUNS, lex.NOUN_ENDINGS)), None)],
            "a": lambda: [(self._plain(lex.ADJECTIVES, lex.ADJECTIVE_ENDINGS), None)],
            "v": lambda: [(self._plain(lex.VERBS, ("ed",)), None)],
            "i": lambda: [(self._plain(lex.INFINITIVES, ("e", "ate", "ify", "en")), None)],
            "N": lambda: [(self._pick(lex.OPENERS), None)],
            "X": lambda: [(self._pick(lex.CAPITALISED), None)],
            "nat": lambda: [(self._pick(lex.NATIONALITIES), None)],
            "role": lambda: [(self._pick(_JOBS), None)],
            "num": lambda: [(self.number(), None)],
            "rel": lambda: [(self._pick(_RELATIVE), None)],
        }

    # Drawing

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self.random.random() * len(items))]

    def _of_part(self, names: tuple[str, ...]) -> list[str]:
        """The names of a list that this part may use; a famous name or a plain word is never held out."""

        def part_of(name: str) -> Part:
            return "train" if name.lower() in _FAMOUS or name.lower() in _PLAIN else split(name)

        return [name for name in names if part_of(name) == self.part]

    def _made_up(self, make: Callable[[], str]) -> str:
        """A made-up name that the checksum puts in this part."""
        while True:
            name = make()
            if split(name) == self.part and name.lower() not in _PLAIN and name.lower() not in _FAMOUS:
                return name

    def _syllables(self, count: int) -> str:
        text = "" if self._chance(0.75) else self._pick(lex.VOWELS)
        for _ in range(count):
            text += self._pick(lex.ONSETS) + self._pick(lex.VOWELS)
            if self._chance(0.35):
                text += self._pick(lex.CODAS)
        return text

    def _invented(self, endings: tuple[str, ...]) -> str:
        """A made-up capitalised word: syllables, two times in three with a typical ending."""
        if self._chance(0.67):
            return _capitalised(self._syllables(self._pick((1, 1, 2))) + self._pick(endings))
        return _capitalised(self._syllables(self._pick((1, 2, 2, 3))))

    def _plain(self, words: tuple[str, ...], endings: tuple[str, ...]) -> str:
        """A plain word; in training at times one that is made up, so that an unknown word need not be a name."""
        if self.part == "train" and self._chance(0.1):
            return self._syllables(self._pick((1, 1, 2))) + self._pick(endings)
        return self._pick(words)

    # People

    def first_name(self) -> str:
        if self._chance(0.7):
            return self._pick(self.first)
        return self._made_up(lambda: self._invented(lex.FIRST_ENDINGS))

    def last_name(self) -> str:
        known = self._chance(0.6)
        name = self._pick(self.last) if known else self._made_up(lambda: self._invented(lex.PERSON_ENDINGS))
        if self._chance(0.03):
            return self._pick(("Mc", "Mac", "O'", "Fitz", "Al-", "D'")) + name
        if self._chance(0.03):
            return f"{name}-{self._pick(self.last)}"
        return name

    def full_name(self) -> str:
        first, last = self.first_name(), self.last_name()
        kind = self.random.random()
        if kind < 0.06:
            first += f" {self._pick('ABCDEFGHJKLMNPRSTW')}."
        elif kind < 0.09:
            first = f"{first[0]}."
        elif kind < 0.11:
            first = f"{first[0]}. {self._pick('ABCDEFGHJKLMNPRSTW')}."
        elif kind < 0.15:
            first += f" {self.first_name()}"
        elif kind < 0.18:
            first += f"-{self.first_name()}"
        elif kind < 0.23:
            last = f"{self._pick(('van', 'de', 'von', 'da', 'al', 'bin', 'van der', 'de la', 'ten', 'El'))} {last}"
        elif kind < 0.25:
            last += self._pick((" Jr.", " III", " II", " Sr."))
        return f"{first} {last}"

    def titled(self) -> str:
        name = self.last_name() if self._chance(0.75) else self.full_name()
        return f"{self._pick(lex.HONORIFICS)} {name}"

    def person(self) -> str:
        kind = self.random.random()
        if kind < 0.52:
            return self.full_name()
        if kind < 0.8:
            return self.first_name()
        if kind < 0.9:
            return self.last_name()
        return self.titled()

    # Organisations

    def _camel(self) -> str:
        return self._pick(lex.CAMEL_LEFT) + self._pick(lex.CAMEL_RIGHT)

    def _acronym(self) -> str:
        return "".join(self._pick("ABCDEFGHIJKLMNOPRSTUVWXYZ") for _ in range(self._pick((3, 3, 3, 4, 4, 5))))

    def _bare_brand(self) -> str:
        kind = self.random.random()
        if kind < 0.2:
            return self._made_up(self._camel)
        if kind < 0.35:
            return self._made_up(self._acronym)
        if kind < 0.45:
            return self._made_up(lambda: f"{self._pick('ABCDEFGHJKLMNPRST')}&{self._pick('ABCDEFGHJKLMNPRST')}")
        return self._made_up(lambda: self._invented(("a", "o", "ix", "on", "ex", "ia", "io", "ify", "ly", "is", "us")))

    def company(self) -> str:
        """An organisation that takes no article."""
        kind = self.random.random()
        if kind < 0.2 and self.part == "train":
            return self._pick(lex.FAMOUS_COMPANIES)
        if kind < 0.5:
            return self._pick(self.companies)
        if kind < 0.58:
            return self._bare_brand()
        if kind < 0.68:
            return f"{self._stem()} {self._pick(lex.ORG_NOUNS)}"
        if kind < 0.74:
            return f"{self._pick(lex.ORG_ADJECTIVES)} {self._pick(lex.ORG_NOUNS)}"
        if kind < 0.79:
            return f"{self._stem()} {self._pick(lex.COMPANY_ENDINGS)}"
        if kind < 0.82:
            # "Smith and Jones" is more often two people.
            return f"{self.last_name()} {self._pick(('and Sons', 'and Co', '& Sons', f'& {self.last_name()}'))}"
        if kind < 0.86:
            saint = f"{self._pick(('St.', 'St', 'Saint'))} {self._pick(lex.SAINTS)}"
            return f"{saint}{self._pick((chr(39) + 's', ''))} {self._pick(('Hospital', 'College', 'School', 'Church'))}"
        if kind < 0.93:
            endings = ("University", "University Hospital", "General Hospital", "College", "High School", "City")
            return f"{self.settlement()} {self._pick(endings)}"
        if kind < 0.97:
            return self._pick(self.bands_plain)
        return f"{self._pick(lex.ORG_ADJECTIVES)} {self._pick(lex.ORG_NOUNS)} of {self.settlement()}"

    def _stem(self) -> str:
        """The first word of a company's name."""
        return self._pick((self.last_name, self.settlement, self._bare_brand, self._bare_brand))()

    def institution(self) -> str:
        """An organisation that takes an article which is not part of its name."""
        kind = self.random.random()
        if kind < 0.3:
            return f"University of {self.settlement()}"
        if kind < 0.45:
            head = self._pick(("Bank", "Museum", "Ministry", "Institute", "Department", "School", "Academy", "College"))
            return f"{head} of {self._pick((self._pick(lex.FIELDS), self.settlement()))}"
        if kind < 0.55:
            adjective = self._pick(lex.ORG_ADJECTIVES)
            return f"{adjective} {self._pick(('', self._pick(lex.FIELDS) + ' '))}{self._pick(lex.ORG_NOUNS)}"
        if kind < 0.62:
            endings = ("Foundation", "Institute", "Museum", "Group", "Hotel", "Times", "Post")
            return f"{self._stem()} {self._pick(endings)}"
        return self._pick(self.agencies)

    def organisation(self) -> list[Piece]:
        kind = self.random.random()
        if kind < 0.72:
            name = self.company()
            article = name in lex.FAMOUS_COMPANIES and _AGENCY_WITH_THE.fullmatch(name) is not None
        elif kind < 0.78:
            name, article = self.band(), False
        else:
            name = self.institution()
            article = name not in self.agencies or _AGENCY_WITH_THE.fullmatch(name) is not None
        return [("the ", None), (name, "ORG")] if article else [(name, "ORG")]

    def band(self) -> str:
        """A band or newspaper; the article is part of its name."""
        if self._chance(0.35) and self.bands:
            return self._pick(self.bands)
        kind = self.random.random()
        if kind < 0.35:
            return f"The {_capitalised(_plural(self._pick(lex.NOUNS)))}"
        if kind < 0.55:
            return f"The {_capitalised(self._pick(lex.ADJECTIVES))} {_capitalised(_plural(self._pick(lex.NOUNS)))}"
        if kind < 0.65:
            return f"The {self.settlement()} {self._pick(('Times', 'Post', 'Herald', 'Tribune', 'Gazette'))}"
        return f"The {self._made_up(lambda: self._invented(('le', 'er', 'ie', 'y', 'ing', 'on')))}s"

    # Places

    def settlement(self) -> str:
        """A city or country that takes no article."""
        kind = self.random.random()
        if kind < 0.25 and self.part == "train":
            return self._pick(lex.FAMOUS_CITIES)
        if kind < 0.6:
            return self._pick(self.cities)
        if kind < 0.75:
            name = self._pick(self.regions)
            return name if _WITH_THE.fullmatch(name) is None else self._pick(self.cities)
        if kind < 0.93:
            return self._made_up(lambda: self._invented(lex.PLACE_ENDINGS))
        stem = self._made_up(lambda: self._invented(lex.PLACE_ENDINGS))
        return f"{self._pick(lex.PLACE_HEADS)} {stem}" if self._chance(0.6) else f"{stem} {self._pick(lex.PLACE_TAILS)}"

    def place(self) -> list[Piece]:
        kind = self.random.random()
        if kind < 0.7:
            name = self.settlement()
        elif kind < 0.78:
            name = self._pick(self.features)
        elif kind < 0.9 and self.part == "train":
            name = self._pick(lex.FAMOUS_COUNTRIES)
        else:
            name = self._pick(self.regions)
        if self._chance(0.02):
            return [(name, "LOC"), (", ", None), (self.settlement(), "LOC")]
        return [("the ", None), (name, "LOC")] if _WITH_THE.fullmatch(name) else [(name, "LOC")]

    # Dates

    def year(self) -> str:
        return str(self.random.randint(1700, 2060) if self._chance(0.5) else self.random.randint(1950, 2030))

    def month_or_year(self) -> str:
        """A date that follows "in"."""
        kind = self.random.random()
        if kind < 0.35:
            return self.year()
        if kind < 0.6:
            return self._pick(lex.MONTHS)
        if kind < 0.64:
            return self._pick(lex.SHORT_MONTHS)
        return f"{self._pick(lex.MONTHS)}{self._pick((' ', ' ', ' ', ', ', ' of '))}{self.year()}"

    def day(self) -> str:
        """A date that follows "on"."""
        number = self.random.randint(1, 31)
        ordinal = f"{number}{'th' if 10 < number < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
        month = self._pick(lex.MONTHS if self._chance(0.85) else lex.SHORT_MONTHS)
        kind = self.random.random()
        if kind < 0.4:
            return self._pick(lex.WEEKDAYS)
        if kind < 0.44:
            return self._pick(lex.HOLIDAYS)
        if kind < 0.47:
            year, nth = self.year(), self.random.randint(1, 12)
            return self._pick((f"{year}-{nth:02}-{number:02}", f"{number}/{nth}/{year}", f"{number}.{nth}.{year}"))
        plain = (f"{number} {month}", f"{month} {number}")
        day = self._pick((*plain, f"{ordinal} of {month}", f"{month} {ordinal}", f"{ordinal} {month}"))
        if self._chance(0.3):
            day += self._pick((" ", ", ")) + self.year()
        if self._chance(0.12):
            day = self._pick(lex.WEEKDAYS) + self._pick((" ", ", ")) + day
        return day

    def when(self) -> list[Piece]:
        kind = self.random.random()
        if kind < 0.42:
            before = self._pick(("in ", "in ", "in ", "in ", "since ", "before ", "after ", "by "))
            return [(before, None), (self.month_or_year(), "DATE")]
        if kind < 0.78:
            before = self._pick(("on ", "on ", "on ", "by ", "until ", "last ", "next "))
            return [(before, None), (self.day(), "DATE")]
        if kind < 0.92:
            return [(self._pick(("tomorrow", "yesterday")), "DATE")]
        return [(self._pick(_RELATIVE), None)]

    def number(self) -> str:
        kind = self.random.random()
        if kind < 0.5:
            return str(self.random.randint(2, 99))
        if kind < 0.7:
            return str(self.random.randint(100, 999))
        if kind < 0.85:
            return f"{self.random.randint(1, 999)}.{self.random.randint(0, 9)}"
        return f"{self.random.randint(1, 99)},{self.random.randint(100, 999)}"

    # Sentences

    def _fill(self, template: str) -> Sentence:
        while choice := _CHOICE.search(template):
            option = self._pick(choice.group(1).split("|"))
            template = template[: choice.start()] + option + template[choice.end() :]
        # A choice may have left a blank at an end or two in a row.
        template = re.sub(r" +", " ", template).strip().replace(" ?", "?")
        text, spans = "", []
        for index, part in enumerate(_SLOT.split(template)):
            for piece, entity in [(part, None)] if index % 2 == 0 else self._slots[part]():
                if entity is not None:
                    spans.append((len(text), len(text) + len(piece), entity))
                text += piece
        # Only the first letter changes, so the offsets stay; a lower-case letter with a longer capital is left alone.
        first = text[:1].upper()
        return Sentence((first if len(first) == 1 else text[:1]) + text[1:], tuple(spans))

    def _ended(self, sentence: Sentence) -> Sentence:
        if sentence.text[-1:] in ".?!" or self._chance(0.12):
            return sentence
        return Sentence(sentence.text + self._pick((".", ".", ".", ".", ".", ".", "!", "...")), sentence.spans)

    def _cut(self, sentence: Sentence) -> Sentence:
        """The beginning of a sentence, as while someone types; a piece of a name is still a name."""
        end = self.random.randint(1, max(1, len(sentence.text) - 1))
        while end > 1 and sentence.text[end - 1] == " ":
            end -= 1
        text, spans = sentence.text[:end], []
        for start, stop, entity in sentence.spans:
            if stop <= end:
                spans.append((start, stop, entity))
            elif start + 2 <= end and not (entity == "DATE" and text[start:].isdecimal()):
                spans.append((start, end, entity))
        return Sentence(text, tuple(spans))

    def sentence(self) -> Sentence:
        """One clean sentence."""
        while True:
            sentence = self._ended(self._fill(self._pick(self.templates)))
            if self.part == "held_out" or skeleton(sentence) not in RESERVED:
                return sentence

    def training_text(self) -> Sentence:
        """A sentence as it may come in: mostly clean, at times cut short, in one case, or two in a row."""
        sentence = self.sentence()
        kind = self.random.random()
        if kind < 0.12:
            sentence = self._cut(sentence)
        elif kind < 0.15:
            # Without capitals only well-known names can be told from plain words.
            names = [sentence.text[start:end].lower() for start, end, entity in sentence.spans if entity != "DATE"]
            if all(name in _FAMOUS for name in names):
                sentence = Sentence(sentence.text.lower(), sentence.spans)
        elif kind < 0.165:
            text = sentence.text.upper()
            sentence = Sentence(text, sentence.spans) if len(text) == len(sentence.text) else sentence
        elif kind < 0.35:
            following = self.sentence()
            offset = len(sentence.text) + 1
            spans = sentence.spans + tuple((s + offset, e + offset, t) for s, e, t in following.spans)
            sentence = Sentence(f"{sentence.text} {following.text}", spans)
        if skeleton(sentence) in RESERVED:
            return self.training_text()
        return sentence


def skeleton(sentence: Sentence) -> str:
    """The sentence in lower case with every entity replaced by its type: what is left is the template's own."""
    parts, at = [], 0
    for start, end, entity in sentence.spans:
        parts += [sentence.text[at:start], entity]
        at = end
    return "".join([*parts, sentence.text[at:]]).lower()
