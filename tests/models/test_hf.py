"""Hugging Face folders: what the daemon answers is what the library's own pipeline answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from inferd_client import Client
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from inferd.cli import cli
from inferd.config import ModelConfig
from inferd.config.models import digest
from inferd.errors import EXIT_CONFIG, ConfigError, ModelLoadError
from inferd.models.hf.folder import Folder
from inferd.models.hf.network import dtype_for
from inferd.models.hf.spans import merged
from inferd.wire import batch as b
from inferd.work.loader import load_model
from tests.models.hf_folders import LENGTH, TEXTS, every_kind, write
from tests.running import running
from tests.work.in_process import Ask, Failed, Worker

TOLERANCE = 1e-5
TAGGERS = ["bert-tags", "roberta-tags"]
CLASSIFIERS = ["bert-mood", "roberta-one", "bert-number", "distilbert-topics"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return every_kind(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def worker(folders: dict[str, Path]) -> Worker:
    worker = Worker(*[ModelConfig.parse(f"hf:{folder}") for folder in folders.values()])
    assert worker.first[0] == b.READY, worker.first
    return worker


def alone_and_together(worker: Worker, model: str, texts: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each text's answer, asked alone and in a batch of all."""
    alone = [worker.ask(model, Ask(text=text))[0] for text in texts]
    return list(zip(alone, worker.ask(model, *[Ask(text=text) for text in texts]), strict=True))


def close(value: float) -> Any:
    return pytest.approx(value, abs=TOLERANCE)


# ---- token classification


def spans_of_library(tagger: Any, text: str) -> list[dict[str, Any]]:
    return [
        {
            "entity": span["entity_group"],
            "start": span["start"],
            "end": span["end"],
            "text": text[span["start"] : span["end"]],
            "score": close(float(span["score"])),
        }
        for span in tagger(text)
    ]


@pytest.fixture(scope="module")
def taggers(folders: dict[str, Path]) -> dict[str, Any]:
    made = {}
    for name in TAGGERS:
        tokenizer = AutoTokenizer.from_pretrained(folders[name], model_max_length=LENGTH)
        made[name] = pipeline(
            "token-classification", model=str(folders[name]), tokenizer=tokenizer, aggregation_strategy="simple"
        )
    return made


@pytest.mark.parametrize("name", TAGGERS)
def test_spans_are_those_of_the_library(worker: Worker, taggers: dict[str, Any], name: str) -> None:
    """Entities without their B- and I-, merged; offsets in characters; scores to 1e-5; alone and beside others."""
    found = 0
    for text, answers in zip(TEXTS, alone_and_together(worker, name, TEXTS), strict=True):
        wanted = {"spans": spans_of_library(taggers[name], text)}
        found += len(wanted["spans"])
        assert answers == (wanted, wanted)
    assert found > 10 and worker.padded > 0


@pytest.mark.parametrize("name", TAGGERS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=50), min_size=1, max_size=4))
def test_any_text_has_the_librarys_spans(worker: Worker, taggers: dict[str, Any], name: str, texts: list[str]) -> None:
    """Whatever its characters, and whoever is in the batch with it."""
    answers = worker.ask(name, *[Ask(text=text) for text in texts])
    assert answers == [{"spans": spans_of_library(taggers[name], text)} for text in texts]


@pytest.mark.parametrize("name", TAGGERS)
def test_of_a_very_long_text_only_the_beginning_counts(worker: Worker, taggers: dict[str, Any], name: str) -> None:
    """Also where it has few tokens in many characters, or none but at its end."""
    texts = [
        "Ada met Charles. " * 3000,
        " " * 20_000 + "Ada met Charles in London." * 500,
        "Ada " + "x" * 50_000,
        "Ada met " + "un" * 20_000 + " London",
        "東" * 9000,
        "👩‍👩‍👧" * 4000,
    ]
    answers = worker.ask(name, *[Ask(text=text) for text in texts])
    assert answers == [{"spans": spans_of_library(taggers[name], text)} for text in texts]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("O O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 3), ("LOC", 6, 7)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("I-PER I-PER I-LOC B-LOC I-PER", [("PER", 0, 3), ("LOC", 4, 5), ("LOC", 6, 7), ("PER", 8, 9)]),
        ("PER PER O LOC", [("PER", 0, 3), ("LOC", 6, 7)]),
        ("B-PER E-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-GPE-CITY I-GPE-CITY", [("GPE-CITY", 0, 3)]),
    ],
)
def test_neighbours_of_one_entity_become_one_span(labels: str, wanted: list[tuple[str, int, int]]) -> None:
    """A B- begins another; the score is the mean of the tokens'."""
    tokens = [(label, (at + 1) / 10, 2 * at, 2 * at + 1) for at, label in enumerate(labels.split())]
    spans = merged("a b c d e", tokens)
    assert [(span["entity"], span["start"], span["end"]) for span in spans] == wanted
    for span in spans:
        inside = [score for _, score, start, end in tokens if span["start"] <= start and end <= span["end"]]
        assert span["score"] == pytest.approx(sum(inside) / len(inside))
        assert span["text"] == "a b c d e"[span["start"] : span["end"]]


# ---- text classification


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_are_those_of_the_library(worker: Worker, folders: dict[str, Path], name: str) -> None:
    """The best label, its score, and the scores of all: of one label, of several, of one alone, of a regression."""
    library = pipeline("text-classification", model=str(folders[name]), top_k=None)
    for text, answers in zip(TEXTS, alone_and_together(worker, name, TEXTS), strict=True):
        [wanted] = library([text], truncation=True, max_length=LENGTH)
        scores = {each["label"]: close(each["score"]) for each in wanted}
        best = {"label": wanted[0]["label"], "score": close(wanted[0]["score"]), "scores": scores}
        assert answers == (best, best)


# ---- embeddings


@pytest.mark.parametrize("name", ["distilbert-base", "sentences", "sentences-cls"])
def test_embeddings_are_pooled_as_the_folder_says(worker: Worker, folders: dict[str, Path], name: str) -> None:
    """The mean, or the first token's; of length one if modules.json has Normalize; cut where its settings say."""
    tokenizer, network = AutoTokenizer.from_pretrained(folders[name]), AutoModel.from_pretrained(folders[name]).eval()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    for text, answers in zip(TEXTS, alone_and_together(worker, name, TEXTS), strict=True):
        length = 8 if name == "sentences" else LENGTH
        tokens = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            vectors = network(**tokens).last_hidden_state[0]
        wanted = vectors[0] if name == "sentences-cls" else vectors.mean(dim=0)
        if name == "sentences":
            wanted = wanted / wanted.norm()
        for answer in answers:
            assert answer["embedding"].shape == (32,) and answer["embedding"].dtype == torch.float32
            assert torch.allclose(answer["embedding"], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", [{"pooling_mode": "mean", "pooling_mode_mean_tokens": None}, {}])
def test_settings_of_a_sentence_transformer(tmp_path: Path, folders: dict[str, Path], pooling: dict[str, Any]) -> None:
    """Old and new ways to name the pooling; the network in a folder of its own; small letters if it wants them."""
    top = tmp_path / "top"
    shutil.copytree(folders["sentences"], top)
    changed("1_Pooling/config.json", **pooling)(top)
    (top / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (top / name).rename(top / "0_Transformer" / name)
    changed("modules.json", at=0, path="0_Transformer")(top)
    changed("sentence_bert_config.json", do_lower_case=True)(top)
    worker = Worker(ModelConfig.parse(f"hf:{top}"), ModelConfig.parse(f"hf:{folders['sentences']}"))
    [answer] = worker.ask("top", Ask(text="Ada in London"))
    [wanted] = worker.ask("sentences", Ask(text="ada in london"))
    assert torch.equal(answer["embedding"], wanted["embedding"])


# ---- as it is served


def test_what_is_announced(worker: Worker) -> None:
    """A folder serves `text` under the folder's name, with its task's outputs."""
    models = worker.models
    assert all(model["inputs"] == [["text", "STRING", []]] and model["length_buckets"] for model in models.values())
    assert models["bert-tags"]["outputs"] == [["spans", "LIST", []]]
    assert models["bert-mood"]["outputs"] == [["label", "STRING", []], ["score", "NUMBER", []], ["scores", "MAP", []]]
    assert models["sentences"]["outputs"] == [["embedding", "FP32", [32]]]


def test_rows_of_one_request_may_differ_in_length(worker: Worker) -> None:
    """Texts sent as rows have the answers that each has alone."""
    texts = TEXTS[1:5]
    [answer] = worker.ask("sentences", Ask(len(texts), text=texts))
    alone = [worker.ask("sentences", Ask(text=text))[0]["embedding"] for text in texts]
    assert torch.allclose(answer["embedding"], torch.stack(alone), atol=TOLERANCE)


def test_what_is_no_text_is_rejected_alone(worker: Worker) -> None:
    """Its neighbours in the batch are answered."""
    answers = worker.ask("bert-mood", Ask(text="Ada"), Ask(text=5), Ask(text="London"))
    assert answers[1] == Failed("INPUT_DTYPE") and answers[0]["label"] and answers[2]["label"]


def test_the_daemon_serves_a_folder(tmp_path: Path, folders: dict[str, Path], taggers: dict[str, Any]) -> None:
    """From a client's socket to a worker process and back, many at once."""
    with (
        running(tmp_path, ModelConfig.parse(f"tags=hf:{folders['bert-tags']}")) as daemon,
        Client(daemon.url) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda text: client.infer("tags", {"text": text}), TEXTS * 8))
    assert answers == [{"spans": spans_of_library(taggers["bert-tags"], text)} for text in TEXTS] * 8


@pytest.mark.parametrize(
    ("half", "device", "dtype"),
    [
        ("", "cpu", torch.float32),
        ("bfloat16", "cpu", torch.float32),
        ("", "cuda", torch.float32),
        ("float16", "cuda", torch.float16),
        ("bfloat16", "cuda:1", torch.bfloat16),
    ],
)
def test_half_precision_is_for_gpus(half: str, device: str, dtype: torch.dtype) -> None:
    """Only where config.json says that the weights were trained so."""
    assert dtype_for(half, torch.device(device)) == dtype


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_a_folder_in_half_precision_runs_on_a_cpu(tmp_path: Path, folders: dict[str, Path], field: str) -> None:
    """In float32, with the answers of its weights."""
    folder = tmp_path / "half"
    shutil.copytree(folders["bert-mood"], folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float16)
    network.save_pretrained(folder)
    changed("config.json", dtype=None, torch_dtype=None)(folder)
    changed("config.json", **{field: "float16"})(folder)
    assert Folder(str(folder)).half == "float16"
    library = pipeline("text-classification", model=network.float(), tokenizer=str(folder))
    [answer] = Worker(ModelConfig.parse(f"hf:{folder}")).ask("half", Ask(text=TEXTS[2]))
    assert answer["score"] == close(library(TEXTS[2])[0]["score"])


def test_nothing_is_looked_for_on_the_network(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder opens where no connection can be made."""

    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Worker(ModelConfig.parse(f"hf:{folders['bert-tags']}")).first[0] == b.READY


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("hf:/models/bert-base-NER", "bert-base-NER", "/models/bert-base-NER"),
        ("tags=hf:/models/a=b/", "tags", "/models/a=b"),
        ("hf:/models/a=b", "a-b", "/models/a=b"),
        ("hf:/models/.my model (v2)", "my-model-v2-", "/models/.my model (v2)"),
        ("hf:/models/" + "x" * 80, "x" * 64, "/models/" + "x" * 80),
        ("hf:/models/here/..", "models", "/models"),
    ],
)
def test_a_folder_is_named_after_itself(text: str, name: str, folder: str) -> None:
    """What cannot stand in a model's name becomes a hyphen; NAME= names it otherwise."""
    config = ModelConfig.parse(text)
    assert (config.name, config.options) == (name, {"folder": folder})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf:/", "write NAME=hf:/"),
        ("hf:/models/東京", "write NAME=hf:/models/東京"),
        ("no name=hf:/models/a", "cannot name a model"),
    ],
)
def test_a_folder_whose_name_names_nothing_needs_one(text: str, says: str) -> None:
    """It is refused when the command line is read."""
    with pytest.raises(ConfigError, match=says):
        ModelConfig.parse(text)


def test_a_worker_without_transformers_says_what_to_install(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of the extra."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    kind, *failure = Worker(ModelConfig.parse(f"hf:{folders['bert-tags']}")).first
    assert kind == b.REFUSED and "pip install transformers" in b.LoadFailure(*failure).message


def test_a_folder_takes_no_arguments(folders: dict[str, Path]) -> None:
    """--set is refused by name."""
    config = ModelConfig.parse(f"hf:{folders['bert-tags']}")
    kind, *failure = Worker(ModelConfig(config.name, config.target, {**config.options, "width": 2})).first
    assert kind == b.REFUSED and "takes no arguments (--set width)" in b.LoadFailure(*failure).message


# ---- what is refused


def changed(name: str, at: int | None = None, **fields: Any) -> Callable[[Path], Any]:
    """Changes fields of a JSON file, of its entry `at` if it is a list; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        own = content if at is None else content[at]
        own.update(fields)
        for key in [key for key, value in own.items() if value is None]:
            del own[key]
        write(folder, {name: content})

    return change


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04}.")


def another_vocabulary(folder: Path) -> None:
    """A file that this kind of tokenizer does not read."""
    (folder / "tokenizer.json").unlink()
    changed("tokenizer_config.json", tokenizer_class="BertTokenizer")(folder)
    write(folder, {"vocab.json": {}})


def own_code(folder: Path) -> None:
    """Code of the folder's own, which leaves a trace if it is run."""
    code = f"open({str(folder / 'ran')!r}, 'w')\nfrom transformers import BertConfig as Own\n"
    (folder / "own.py").write_text(code)
    changed("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})(folder)


REFUSED: list[tuple[str, Callable[[Path], Any], str]] = [
    ("bert-tags", shutil.rmtree, "is no folder"),
    ("bert-tags", only_pickled, "its weights are a pickle (pytorch_model.bin)"),
    ("bert-tags", lambda folder: (folder / "model.safetensors").unlink(), "has no weights: model.safetensors or"),
    (
        "bert-tags",
        lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
        "its weights cannot be loaded: ",
    ),
    ("bert-tags", lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    ("bert-tags", lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be read"),
    ("bert-tags", another_vocabulary, "its tokenizer "),
    ("bert-tags", lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    ("bert-tags", lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    ("bert-tags", lambda folder: (folder / "config.json").write_text("[]"), "config.json is no JSON object"),
    ("bert-tags", changed("config.json", architectures=None), "names no architectures"),
    ("bert-tags", changed("config.json", architectures=["BertForQuestionAnswering"]), "is a BertForQuestionAnswering"),
    ("bert-tags", changed("config.json", architectures=["BertLMHeadModel"]), "is a BertLMHeadModel"),
    ("bert-tags", changed("config.json", architectures=["T5Model"], is_encoder_decoder=True), "is a T5Model"),
    ("bert-tags", changed("config.json", vocab_size=5), "its weights cannot be loaded: "),
    (
        "sentences",
        changed("config.json", model_type="vit", architectures=["ViTForTokenClassification"]),
        "has no such vit model",
    ),
    ("bert-tags", changed("config.json", model_type="unheard-of"), "config.json is nothing that this version"),
    ("bert-tags", own_code, "without code of its own"),
    ("bert-tags", changed("tokenizer_config.json", pad_token=None), "no padding token"),
    ("bert-tags", lambda folder: write(folder, {"adapter_config.json": {}}), "holds an adapter"),
    ("sentences", changed("config.json", architectures=["BertForTokenClassification"]), "its weights lack classifier"),
    ("sentences", changed("modules.json", at=2, type="sentence_transformers.models.Dense"), "modules.json has a Dense"),
    ("sentences", lambda folder: write(folder, {"modules.json": [1]}), "modules.json is no list of"),
    ("sentences", changed("1_Pooling/config.json", pooling_mode_max_tokens=True), "pools by mean_tokens+max_tokens"),
    (
        "sentences",
        lambda folder: write(folder, {"config_sentence_transformers.json": {"default_prompt_name": "query"}}),
        "has a default_prompt_name",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_cannot_be_served_is_refused_with_a_sentence(
    tmp_path: Path, folders: dict[str, Path], name: str, spoil: Callable[[Path], Any], says: str
) -> None:
    """Before READY, with the folder, what is wrong with it, and what to do; and no code of the folder is run."""
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    spoil(folder)
    kind, *failure = Worker(ModelConfig.parse(f"hf:{folder}")).first
    assert kind == b.REFUSED
    said = b.LoadFailure(*failure)
    assert said.message.startswith(f"{folder}: ") and says in said.message
    assert said.location == str(folder) and said.model == name
    assert not (folder / "ran").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Its tokens would be read from beyond the network's table, which ends a GPU's worker."""
    folder = tmp_path / "mixed"
    shutil.copytree(folders["bert-tags"], folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["roberta-tags"] / name, folder / name)
    said = b.LoadFailure(*Worker(ModelConfig.parse(f"hf:{folder}")).first[1:])
    assert "they do not belong together" in said.message


# ---- pins


class Pinned:
    """A folder with a base model, and another one's weights below it; which of them are served."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = shutil.copytree(base, folder)
        shutil.copytree(base, folder / "inner")
        self.weights, self.inner = folder / "model.safetensors", folder / "inner" / "model.safetensors"
        with safe_open(self.weights, "pt") as file:
            save_file({name: file.get_tensor(name) + 1 for name in file.keys()}, self.inner, {"format": "pt"})  # noqa: SIM118

    def config(self, pinned: Path) -> ModelConfig:
        return replace(ModelConfig.parse(f"m=hf:{self.folder}"), sha256=digest(str(pinned)))

    def refusal(self, pinned: Path) -> str:
        kind, *failure = Worker(self.config(pinned)).first
        assert kind == b.REFUSED
        return b.LoadFailure(*failure).message

    def served(self, pinned: Path) -> Path:
        model = load_model(self.config(pinned))
        model.load(torch.device("cpu"))
        table = model.model.network.get_input_embeddings().weight
        [path] = [path for path in (self.weights, self.inner) if any(table.equal(each) for each in tensors(path))]
        return path


def tensors(path: Path) -> list[torch.Tensor]:
    with safe_open(path, "pt") as file:
        return [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118


@pytest.fixture
def pinned(tmp_path: Path, folders: dict[str, Path]) -> Pinned:
    return Pinned(tmp_path / "pinned", folders["distilbert-base"])


def modules(path: str) -> list[dict[str, Any]]:
    return [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]


def test_the_pin_is_of_the_weights_that_modules_json_names(pinned: Pinned) -> None:
    """Not of those that lie at the top and are not opened; the sentence names the file whose digest is wrong."""
    assert pinned.served(pinned.weights) == pinned.weights
    write(pinned.folder, {"modules.json": modules("inner")})
    said = pinned.refusal(pinned.weights)
    assert f"{pinned.inner} is not the file that was pinned" in said and digest(str(pinned.inner)) in said
    assert pinned.served(pinned.inner) == pinned.inner


def test_a_configuration_does_not_lead_to_other_weights(pinned: Pinned) -> None:
    """transformers would follow the key, past the pin."""
    config = json.loads((pinned.folder / "config.json").read_text())
    write(pinned.folder, {"config.json": {**config, "transformers_weights": "inner/model.safetensors"}})
    assert "takes the weights from inner/model.safetensors" in pinned.refusal(pinned.weights)


@pytest.mark.parametrize("path", ["../other", "{other}", "link"])
def test_pinned_weights_lie_in_the_folder(pinned: Pinned, tmp_path: Path, path: str) -> None:
    """Who may write where modules.json or a link leads may not be who may write into the folder."""
    other = shutil.copytree(pinned.folder / "inner", tmp_path / "other")
    (pinned.folder / "link").symlink_to(other)
    write(pinned.folder, {"modules.json": modules(path.format(other=other))})
    says = f"takes the weights from {other}, which is outside of {pinned.folder}"
    assert says in pinned.refusal(pinned.inner)
    configuration = tmp_path / "inferd.toml"
    configuration.write_text(f'[models.m]\ntarget = "hf:pinned"\nsha256 = "{digest(str(pinned.inner))}"\n')
    done = CliRunner().invoke(cli, ["config", "check", str(configuration)])
    assert done.exit_code == EXIT_CONFIG and says in done.output


def test_pinned_weights_have_a_path(pinned: Pinned) -> None:
    """What cannot be one is a sentence, too."""
    write(pinned.folder, {"modules.json": modules("\0")})
    assert "cannot be read: embedded null byte" in pinned.refusal(pinned.weights)


def test_a_pinned_file_may_be_a_link(pinned: Pinned, tmp_path: Path) -> None:
    """As in the hub's cache. What it leads to has the digest, or is not served."""
    pinned.weights.rename(tmp_path / "blob")
    pinned.weights.symlink_to(tmp_path / "blob")
    assert pinned.served(pinned.weights) == pinned.weights
    wanted = pinned.config(pinned.weights)
    shutil.copy(pinned.inner, tmp_path / "blob")
    with pytest.raises(ModelLoadError, match="is not the file that was pinned"):
        load_model(wanted)


def test_weights_that_have_been_loaded_stay(pinned: Pinned) -> None:
    """Also on a CPU, where the library maps the file: it can be written over in place, or be cut off."""
    model = load_model(pinned.config(pinned.weights))
    model.load(torch.device("cpu"))
    table = model.model.network.get_input_embeddings().weight
    before = table.clone()
    with open(pinned.weights, "r+b") as file:
        file.write(pinned.inner.read_bytes())
    assert torch.equal(table, before)
    os.truncate(pinned.weights, 0)
    assert torch.equal(table, before)


@pytest.mark.parametrize("change", ["weights", "modules"])
def test_weights_that_change_while_they_are_loaded_are_not_served(pinned: Pinned, change: str) -> None:
    """The library opens them by their name, after they have been compared."""
    model = load_model(pinned.config(pinned.weights))
    if change == "weights":
        pinned.weights.write_bytes(pinned.inner.read_bytes())
    else:
        model.model.folder.path = pinned.inner.parent  # as if modules.json had become another one just before
    with pytest.raises(ModelLoadError, match="is not the file that was pinned"):
        model.load(torch.device("cpu"))
