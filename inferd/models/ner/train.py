"""Train `ner` from nothing and write its weights: `python -m inferd.models.ner.train` (five minutes on one core).

The material is generated (`data.py`), the seed fixed. Words are hidden at random, names far more often than others,
so that the network learns to do without them. Printed, and stored as the weights' metadata, are the F1 scores (exact
span and type) on held-out sentences: templates and names that occur nowhere in the training material.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from .data import Generator, Sentence
from .features import LONGEST, PADDING, UNKNOWN, Tokens, spelling, tokenize
from .model import ENTITIES, FIRST_KNOWN, GAP, VOCABULARY, WEIGHTS, Ner, Tagger, pack

SEED = 20
EPOCH_TEXTS = 80_000  # texts between two lines of progress
HELD_OUT_SENTENCES = 2_000
EPOCHS = 8
BATCH = 64  # texts per step
LEARNING_RATE = 4e-3
KNOWN_WORDS = 6_000
SEEN_OFTEN = 4  # a word is known if it occurs at least this often
HIDE_NAME, HIDE_WORD = 0.35, 0.05  # how often a word inside or outside an entity is made unknown
HIDE_PIECE, HIDE_PIECE_MORE = 0.1, 0.5  # how often a piece of a spelling is left out, of a word that shows or is hidden


def f1_scores(ner: Ner, sentences: Sequence[Sentence]) -> dict[str, float]:
    """F1 over exact spans with their type, per entity and over all ("all"), of a loaded model."""
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for at in range(0, len(sentences), ner.max_batch_size):
        batch = sentences[at : at + ner.max_batch_size]
        for sentence, output in zip(batch, ner.forward([ner.preprocess(s.text) for s in batch]), strict=True):
            answer = {(s["start"], s["end"], s["entity"]) for s in ner.postprocess(output)["spans"]}
            truth = set(sentence.spans)
            for counter, spans in ((right, answer & truth), (found, answer), (wanted, truth)):
                counter.update(entity for _, _, entity in spans)
    for counter in (right, found, wanted):
        counter["all"] = counter.total()
    return {name: 2 * right[name] / max(1, found[name] + wanted[name]) for name in (*ENTITIES, "all")}


def tag(sentence: Sentence, tokens: Tokens) -> list[int]:
    """The index in TAGS of every token; a token belongs to the span that it overlaps."""
    tags = [0] * len(tokens.bounds)
    for start, end, entity in sentence.spans:
        inside = [i for i, (left, right) in enumerate(tokens.bounds) if left < end and right > start]
        begin = 4 * ENTITIES.index(entity) + 1
        for i in inside:
            tags[i] = begin + 1
        tags[inside[0]], tags[inside[-1]] = begin, begin + 2
        if len(inside) == 1:
            tags[inside[0]] = begin + 3
    return tags


def learn_vocabulary(sentences: Sequence[Sentence]) -> list[int]:
    """The checksums of the words that occur often, the most frequent first."""
    seen: Counter[int] = Counter()
    for sentence in sentences:
        for start, end in tokenize(sentence.text, {}).bounds:
            if end - start <= LONGEST:
                seen[spelling(sentence.text[start:end])[0]] += 1
    return [checksum for checksum, count in seen.most_common(KNOWN_WORDS) if count >= SEEN_OFTEN]


def hide(features: Tensor, tags: Tensor) -> Tensor:
    """The feature rows with some words made UNKNOWN and some pieces left out; empty rows stay empty."""
    words, pieces = features[:, :1], features[:, 1:]
    probability = torch.where(tags > 0, HIDE_NAME, HIDE_WORD).unsqueeze(1)
    hidden = (torch.rand(words.shape) < probability) & (words != PADDING)
    words = words.masked_fill(hidden, UNKNOWN)
    left_out = torch.rand(pieces.shape) < torch.where(hidden, HIDE_PIECE_MORE, HIDE_PIECE)
    pieces = pieces.masked_fill(left_out, PADDING)
    return torch.cat([words, pieces], dim=1)


def main() -> None:
    """Train, evaluate, write."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    generator = Generator("train", SEED)
    checksums = learn_vocabulary([generator.training_text() for _ in range(EPOCH_TEXTS)])
    vocabulary = {checksum: FIRST_KNOWN + index for index, checksum in enumerate(checksums)}
    tagger = Tagger(FIRST_KNOWN + len(checksums))
    print(f"{len(checksums)} known words, {sum(p.numel() for p in tagger.parameters())} parameters")

    steps = EPOCH_TEXTS // BATCH
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=0.1)
    ignored = torch.full((GAP,), -100)  # the index that the loss leaves out
    for epoch in range(EPOCHS):
        losses = 0.0
        for _ in range(steps):
            # Every text is new: there is nothing to learn by heart.
            sentences = [generator.training_text() for _ in range(BATCH)]
            tokens = [tokenize(sentence.text, vocabulary) for sentence in sentences]
            tags = [torch.tensor(tag(*pair)) for pair in zip(sentences, tokens, strict=True)]
            truth = torch.cat([part for text in tags for part in (text, ignored)][:-1])
            features = pack([text.features for text in tokens])
            loss = functional.nll_loss(tagger(hide(features, truth)), truth)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses += loss.item()
        print(f"epoch {epoch + 1}: loss {losses / steps:.4f}, {time.perf_counter() - started:.0f} s", flush=True)

    state = {name: value.half().contiguous() for name, value in tagger.state_dict().items()}
    state[VOCABULARY] = torch.tensor(checksums, dtype=torch.int32)
    save_file(state, WEIGHTS)
    ner = Ner()
    ner.load(torch.device("cpu"))
    held_out = Generator("held_out", SEED)
    scores = f1_scores(ner, [held_out.sentence() for _ in range(HELD_OUT_SENTENCES)])
    save_file(state, WEIGHTS, metadata={f"f1_{name}": f"{score:.4f}" for name, score in scores.items()})
    WEIGHTS.chmod(0o644)  # save_file leaves it readable by its owner only
    print("held-out F1:", ", ".join(f"{name} {score:.4f}" for name, score in scores.items()))
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
