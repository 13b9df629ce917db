"""The built-in model `ner`, called directly: load, preprocess, forward, postprocess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors import safe_open

from inferd.models.ner import Ner
from inferd.models.ner.data import RESERVED, Generator, Sentence, skeleton
from inferd.models.ner.model import ENTITIES, TAGS, WEIGHTS, decode
from inferd.models.ner.train import f1_scores

EVERYDAY = """
[Angela Merkel|PER] visited [Paris|LOC] in [July 2015|DATE].
[Google|ORG] opened an office in [Zurich|LOC] in [2004|DATE].
My sister [Maria|PER] works for [Siemens|ORG].
We fly to [New York|LOC] on [Monday|DATE].
[Tim Cook|PER] is the head of [Apple|ORG].
The meeting with [Deutsche Bank|ORG] is on [12 March|DATE].
[Serena Williams|PER] was born in [Saginaw|LOC].
[Toyota|ORG] and [Sony|ORG] are from [Japan|LOC].
I met [John|PER] and [Fatima Khan|PER] in [Lahore|LOC].
The [University of Oxford|ORG] is older than [Mexico City|LOC].
[Amazon|ORG] hired [Wei Zhang|PER] in [May|DATE].
[Marie Curie|PER] moved from [Warsaw|LOC] to [Paris|LOC] in [1891|DATE].
nothing happens here today, she said.
Please call [Dr. Okafor|PER] at [St. Mary's Hospital|ORG].
[Microsoft|ORG] bought [GitHub|ORG] in [June 2018|DATE].
[Carlos|PER] lives in [Buenos Aires|LOC].
The train to [Berlin|LOC] leaves [tomorrow|DATE].
[The Beatles|ORG] were from [Liverpool|LOC].
[Priya Nair|PER] joined [NASA|ORG] last year.
I like apples and green tea.
"""
ADA = "[Ada Lovelace|PER] met [Charles Babbage|PER] in [London|LOC] in [1833|DATE]."

MIXED = [
    "",
    "Hi",
    "Ada Lovelace met Charles Babbage in London in 1833.",
    "We fly to New York on Monday.",
    "I like apples and green tea. " * 40 + "Carlos lives in Buenos Aires.",
    "😀 Grüße aus Köln, 東京 and naïve Zoë!",
    "Microsoft",
]


def marked(line: str) -> Sentence:
    """The sentence that a line with [name|TYPE] marks stands for."""
    text, spans = "", []
    for plain, name, entity in re.findall(r"([^\[]+)|\[([^|]+)\|(\w+)\]", line):
        if name:
            spans.append((len(text), len(text) + len(name), entity))
        text += name or plain
    return Sentence(text, tuple(spans))


def answer(ner: Ner, text: str) -> list[dict[str, Any]]:
    """The spans of one text, asked alone."""
    spans: list[dict[str, Any]] = ner.postprocess(ner.forward([ner.preprocess(text)])[0])["spans"]
    return spans


def places(spans: list[dict[str, Any]]) -> tuple[tuple[int, int, str], ...]:
    """The spans without their scores, as the generator writes them."""
    return tuple((span["start"], span["end"], span["entity"]) for span in spans)


@pytest.fixture(scope="module")
def ner() -> Iterator[Ner]:
    # Several threads only wait for each other on texts this short, and badly so on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = Ner()
    model.load(torch.device("cpu"))
    yield model
    torch.set_num_threads(threads)


def test_everyday_sentences(ner: Ner) -> None:
    """At least 16 of 20 everyday sentences, none of them training material, are exactly right."""
    sentences = [marked(line) for line in EVERYDAY.strip().splitlines()]
    answers = [answer(ner, sentence.text) for sentence in sentences]
    wrong = [
        f"{sentence.text} {[(span['text'], span['entity']) for span in spans]}"
        for sentence, spans in zip(sentences, answers, strict=True)
        if places(spans) != sentence.spans
    ]
    print(f"wrong: {len(wrong)}", *wrong, sep="\n")
    assert len(sentences) == 20
    assert len(wrong) <= 4


def test_example(ner: Ner) -> None:
    """The example request is fully right: two people, a place and a date."""
    sentence = marked(ADA)
    assert Ner.example == {"text": sentence.text}
    assert places(answer(ner, sentence.text)) == sentence.spans


def test_everyday_sentences_are_not_trained_on() -> None:
    """No training text looks like one of the everyday sentences with other names put in."""
    kept = {skeleton(marked(line)) for line in [*EVERYDAY.strip().splitlines(), ADA]}
    assert kept == RESERVED
    generator = Generator("train", 1)
    assert not kept & {skeleton(generator.training_text()) for _ in range(5000)}


def test_held_out_f1(ner: Ner) -> None:
    """F1 is at least 0.90 on fresh sentences whose templates and names training never saw; the file says so too."""
    generator = Generator("held_out", 12345)
    scores = f1_scores(ner, [generator.sentence() for _ in range(1500)])
    print({name: round(score, 3) for name, score in scores.items()})
    assert scores["all"] >= 0.90
    with safe_open(WEIGHTS, "pt") as file:
        assert float(file.metadata()["f1_all"]) == pytest.approx(scores["all"], abs=0.03)


def test_parts_share_no_material() -> None:
    """Held-out templates and names occur in no training list."""
    train, held_out = Generator("train", 0), Generator("held_out", 0)
    assert not set(train.templates) & set(held_out.templates)
    for kind in ("first", "last", "cities", "regions", "features", "companies", "agencies", "bands", "bands_plain"):
        assert getattr(held_out, kind)
        assert not set(getattr(train, kind)) & set(getattr(held_out, kind))


def test_same_answer_alone_and_in_a_batch(ner: Ner) -> None:
    """A text gets the same spans, and scores equal to 1e-4, alone and among texts of other lengths."""
    for batch in (MIXED, MIXED[::-1]):
        outputs = ner.forward([ner.preprocess(text) for text in batch])
        assert len(outputs) == len(batch)
        for text, output in zip(batch, outputs, strict=True):
            together, alone = ner.postprocess(output)["spans"], answer(ner, text)
            assert places(together) == places(alone)
            # The scores are rounded to four decimals, so a difference of 1e-7 may show as 1e-4.
            assert [s["score"] for s in together] == pytest.approx([s["score"] for s in alone], abs=1.01e-4)


def test_neighbours_do_not_matter(ner: Ner) -> None:
    """What stands before and after a text in the batch leaves its probabilities alone."""
    text = ner.preprocess("Carlos lives in Buenos Aires")
    results = []
    for neighbour in ("London", "1833 . ! 1833 Google " * 30):
        other = ner.preprocess(neighbour)
        results.append(ner.forward([other, text, other])[1].log_probabilities)
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_offsets_slice_the_text(ner: Ner) -> None:
    """Each span's text is what its offsets cut out, spans are in order and apart, and scores are probabilities."""
    generator = Generator("train", 7)
    for text in [*MIXED, *(generator.training_text().text for _ in range(100))]:
        end = 0
        for span in answer(ner, text):
            assert set(span) == {"entity", "start", "end", "text", "score"}
            assert end <= span["start"] < span["end"] <= len(text)
            assert text[span["start"] : span["end"]] == span["text"]
            assert span["entity"] in ENTITIES
            assert 0 <= span["score"] <= 1
            end = span["end"]


@pytest.mark.parametrize(
    "text",
    [
        " \n\t",
        "\ud800",
        "a\udfffb \ud83d London",
        "🙂👩‍👩‍👧‍👦🇩🇪",
        "\x00\x01\u200b\ufeff",
        "e\u0301" * 50,
        "9" * 5000,
        "²½⅔Ⅳ ٣٤ ५६",
        "نزار قباني في دمشق",
        "ß" * 300 + "İstanbul",
        "' 's ’s '' O'",
    ],
)
def test_odd_texts(ner: Ner, text: str) -> None:
    """Control characters, lone surrogates, emoji, long numbers and other scripts get an answer, not an error."""
    for span in answer(ner, text):
        assert text[span["start"] : span["end"]] == span["text"]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_texts(ner: Ner, text: str) -> None:
    """A text without words has no spans, also where the whole batch has none."""
    assert answer(ner, text) == []
    assert [ner.postprocess(output) for output in ner.forward([ner.preprocess(text)] * 3)] == [{"spans": []}] * 3


@pytest.mark.parametrize("unit", [". ", "London ", "Maria met John in Lahore. ", "x"])
def test_long_texts(ner: Ner, unit: str) -> None:
    """A text of 64 KiB is answered, in windows that do not change what is found."""
    text = (unit * (65536 // len(unit) + 1))[:65536]
    spans = answer(ner, text)
    if unit.startswith("Maria"):
        # From the second sentence to the last but one every sentence reads the same.
        sentence = len(unit)
        found = [places([span]) for span in spans if sentence <= span["start"] < 60000]
        first = [((s, e, t),) for ((s, e, t),) in found if s < 2 * sentence]
        assert len(found) >= len(first) * (60000 // sentence - 2) > 0
        assert all(((s + sentence, e + sentence, t),) in found for ((s, e, t),) in found if s < 60000 - 2 * sentence)


def test_prefixes_while_typing(ner: Ner) -> None:
    """Half-typed names are seen as names, and no prefix of a sentence is taken for a date before there is one."""
    assert [span["entity"] for span in answer(ner, "Ada Lov")] == ["PER"]
    text = "Ada Lovelace met Charles Babbage in London"
    for end in range(len(text)):
        assert all(span["entity"] != "DATE" for span in answer(ner, text[:end]))


def test_decode_obeys_the_scheme() -> None:
    """Decoding random scores gives the best sequence that BIOES allows, as a search over all sequences finds it."""
    torch.manual_seed(0)

    def follows(before: str, after: str) -> bool:
        if before[0] in "BI":
            return after[0] in "IE" and after[2:] == before[2:]
        return after[0] in "OBS"

    for length in (1, 2, 3, 5):
        scores = torch.randn(length, len(TAGS)).log_softmax(1)
        best = {tag: float(scores[0, i]) if tag[0] in "OBS" else -torch.inf for i, tag in enumerate(TAGS)}
        for row in scores[1:]:
            best = {
                tag: float(row[i]) + max(value for before, value in best.items() if follows(before, tag))
                for i, tag in enumerate(TAGS)
            }
        wanted = max(value for tag, value in best.items() if tag[0] in "OES")
        path = [TAGS[i] for i in decode(scores.tolist())]
        assert all(follows(a, b) for a, b in zip(["O", *path], [*path, "O"], strict=True))
        assert float(sum(scores[i, TAGS.index(tag)] for i, tag in enumerate(path))) == pytest.approx(wanted)


def test_weights_are_small() -> None:
    """The weights file is under 2 MB."""
    assert WEIGHTS.stat().st_size < 2_000_000
