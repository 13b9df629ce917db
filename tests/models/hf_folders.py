"""Hugging Face folders for tests: tiny networks with random weights, and tokenizers made from a few sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

TEXTS = [
    "",
    "Ada",
    "Ada Lovelace met Charles Babbage in London in 1833.",
    "unbelievable, isn't it? naïve Zoë / na\u0131\u0308ve e\u0301cole",
    "😀 Grüße aus Köln 👩‍👩‍👧 東京,  two  spaces\tand\na line",
    "Ada Lovelace met Charles Babbage in London. " * 30,
    "[SEP] </s> Ada [MASK]",
]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LENGTH = 40  # positions of the networks


def word_pieces(**given: Any) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "Ada",
        "Love",
        "##lace",
        "met",
        "Charles",
        "Ba",
        "##bb",
        "##age",
        "in",
        "London",
        ".",
        ",",
        "un",
        "##believ",
    ]
    letters = [
        prefix + letter for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for prefix in ("", "##")
    ]
    core = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(special + words + letters)}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{word[1:-1].lower()}_token": word for word in special}
    return PreTrainedTokenizerFast(tokenizer_object=core, **{"model_max_length": LENGTH, **names, **given})


def byte_pairs(**given: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as RoBERTa's, that was told no length."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, **{"model_input_names": inputs, **names, **given})


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}


def bert(tokenizer: PreTrainedTokenizerFast, **given: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        initializer_range=0.5,  # so that labels differ from token to token
        **given,
    )


def roberta(tokenizer: PreTrainedTokenizerFast, **given: Any) -> RobertaConfig:
    own = bert(tokenizer).to_dict()
    shared = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {key: own[key] for key in shared}
    # Its first position is the one behind the padding's.
    return RobertaConfig(
        **sizes,
        max_position_embeddings=LENGTH + 2,
        initializer_range=0.5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **given,
    )


def distilbert(tokenizer: PreTrainedTokenizerFast, **given: Any) -> DistilBertConfig:
    return DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=LENGTH,
        initializer_range=0.5,
        **given,
    )


def saved(path: Path, kind: type[PreTrainedModel], config: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with the network, its weights from a fixed seed, and the tokenizer."""
    torch.manual_seed(1)
    kind(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """More JSON files for a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def sentence_transformer(
    folder: Path, pooling: str = "mean_tokens", normalize: bool = True, max_tokens: int = 8
) -> Path:
    """Adds what sentence-transformers adds to a base model's folder."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(parts)
    ]
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    return write(
        folder,
        {
            "modules.json": modules,
            "1_Pooling/config.json": {"word_embedding_dimension": 32, **modes},
            "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        },
    )


def every_kind(root: Path) -> dict[str, Path]:
    """A folder for each task and kind of tokenizer."""
    pieces, pairs = word_pieces(), byte_pairs()
    multi = {"problem_type": "multi_label_classification"}
    return {
        "bert-tags": saved(root / "bert-tags", BertForTokenClassification, bert(pieces, **labels(*TAGS)), pieces),
        "roberta-tags": saved(
            root / "roberta-tags", RobertaForTokenClassification, roberta(pairs, **labels(*TAGS)), pairs
        ),
        "bert-mood": saved(
            root / "bert-mood", BertForSequenceClassification, bert(pieces, **labels("bad", "so-so", "good")), pieces
        ),
        "roberta-one": saved(
            root / "roberta-one", RobertaForSequenceClassification, roberta(pairs, **labels("spam")), pairs
        ),
        "bert-number": saved(
            root / "bert-number",
            BertForSequenceClassification,
            bert(pieces, problem_type="regression", **labels("stars")),
            pieces,
        ),
        "distilbert-topics": saved(
            root / "distilbert-topics",
            DistilBertForSequenceClassification,
            distilbert(pieces, **multi, **labels("sport", "music", "war")),
            word_pieces(model_input_names=["input_ids", "attention_mask"]),
        ),
        # Its tokenizer speaks of token types, and the network takes none.
        "distilbert-base": saved(root / "distilbert-base", DistilBertModel, distilbert(pieces), pieces),
        "sentences": sentence_transformer(saved(root / "sentences", BertModel, bert(pieces), pieces)),
        "sentences-cls": sentence_transformer(
            saved(root / "sentences-cls", BertModel, bert(pieces), pieces), "cls_token", normalize=False, max_tokens=128
        ),
    }
