"""What the JSON files of a folder say, read without any library; what cannot be served is refused here."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import Any

from inferd.errors import ModelLoadError

# Any of these is enough for a fast tokenizer; from the last four the library makes one, offline.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
# How sentence-transformers calls the parts of a model (modules.json), by the last word of their types.
SENTENCE_MODULES = {"Transformer", "Pooling", "Normalize"}
POOLINGS = ("mean", "cls")
# BertModel is one, BertLMHeadModel and GPT2DoubleHeadsModel are not.
BASE_MODEL = re.compile(r"\w+(?<!Head)(?<!Heads)Model")


class Task(enum.Enum):
    """What a folder's model does with a text, and how the names of architectures for it end."""

    TOKEN_CLASSIFICATION = "ForTokenClassification"
    TEXT_CLASSIFICATION = "ForSequenceClassification"
    SENTENCE_EMBEDDING = ""


SUPPORTED = (
    "inferd serves folders for token classification (…ForTokenClassification), for text classification "
    "(…ForSequenceClassification), and for sentence embeddings (a base model such as BertModel, or a "
    "sentence-transformers folder with mean or cls pooling)"
)


def refusal(folder: Path, problem: str) -> ModelLoadError:
    """The error for a folder that cannot be served."""
    error = ModelLoadError(f"{folder}: {problem}")
    error.location = str(folder)
    return error


class Folder:
    """A folder, checked as far as can be without its weights. Raises ModelLoadError.

    `path` is where config.json, weights and tokenizer lie, `task` what they are for, `half` the dtype that the weights
    were trained in if that is a half precision ("float16", "bfloat16"), else "". `pooling`, `normalize`,
    `max_tokens` (0: the tokenizer says) and `lower_case` are what sentence-transformers would do.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder)
        if not self.path.is_dir():
            raise refusal(
                self.path,
                "is no folder; hf: is followed by the path of one, as save_pretrained writes it. "
                "Nothing is downloaded: fetch a model first",
            )
        self.pooling, self.normalize = "mean", False
        self.max_tokens, self.lower_case = 0, False
        modules = self._read("modules.json", list) if (self.path / "modules.json").exists() else []
        if modules:
            self._sentence_transformer(modules)
        config = self._read("config.json", dict)
        self.task = self._task(config, bool(modules))
        dtype = config.get("dtype") or config.get("torch_dtype")
        self.half: str = dtype if dtype in ("float16", "bfloat16") else ""
        self._check_files()

    def _read(self, name: str, kind: type) -> Any:
        """The JSON of a file, which must be of `kind`."""
        try:
            found = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            raise refusal(
                self.path,
                f"has no {name}; a Hugging Face folder is what save_pretrained(…) writes, with config.json, "
                "model.safetensors and tokenizer.json",
            ) from None
        except (OSError, ValueError) as error:
            raise refusal(self.path, f"{name} cannot be read: {error}; copy the folder again") from error
        if not isinstance(found, kind):
            raise refusal(self.path, f"{name} is no JSON {'list' if kind is list else 'object'}; copy the folder again")
        return found

    def _task(self, config: dict[str, Any], has_modules: bool) -> Task:
        architectures = config.get("architectures")
        if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
            raise refusal(self.path, f"config.json names no architectures, so its task is not known; {SUPPORTED}")
        name: str = architectures[0]
        for task in (Task.TOKEN_CLASSIFICATION, Task.TEXT_CLASSIFICATION):
            if name.endswith(task.value):
                return task
        if (has_modules or BASE_MODEL.fullmatch(name)) and not config.get("is_encoder_decoder"):
            return Task.SENTENCE_EMBEDDING
        raise refusal(self.path, f"is a {name}, which is not served; {SUPPORTED}")

    def _sentence_transformer(self, modules: list[Any]) -> None:
        """What modules.json and its neighbours say, as sentence-transformers reads them."""
        top = self.path
        for module in modules:
            if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
                raise refusal(top, "modules.json is no list of {type, path}; copy the folder again")
            kind = module["type"].rpartition(".")[2]
            if kind not in SENTENCE_MODULES:
                raise refusal(top, f"its modules.json has a {kind}, which is not served; {SUPPORTED}")
            if kind == "Normalize":
                self.normalize = True
            elif kind == "Pooling":
                self.pooling = self._pooling(f"{module['path']}/config.json")
        for settings in sorted(top.glob("sentence_*_config.json")):
            found = self._read(settings.name, dict)
            length = found.get("max_seq_length")
            self.max_tokens = length if isinstance(length, int) else 0
            self.lower_case = bool(found.get("do_lower_case"))
        name = "config_sentence_transformers.json"
        if (top / name).exists() and self._read(name, dict).get("default_prompt_name"):
            raise refusal(top, f"{name} has a default_prompt_name, and prompts are not served; send them with the text")
        first = modules[0]["path"] if modules else ""
        self.path = top / first

    def _pooling(self, name: str) -> str:
        config = self._read(name, dict)
        prefix = "pooling_mode_"
        modes = [key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on is True]
        mode = config.get("pooling_mode") or "+".join(modes)
        mode = {"mean_tokens": "mean", "cls_token": "cls"}.get(mode, mode)
        if mode not in POOLINGS:
            raise refusal(self.path, f"{name} pools by {mode or 'nothing'}, which is not served; {SUPPORTED}")
        return str(mode)

    def _check_files(self) -> None:
        if not self._has(SAFETENSORS_FILES):
            if self._has(PICKLED_FILES):
                raise refusal(
                    self.path,
                    "its weights are a pickle (pytorch_model.bin), which can run any code and is never read. If you "
                    "trust where it comes from, convert it once: load it with transformers and save_pretrained(…) it, "
                    "which writes model.safetensors",
                )
            raise refusal(self.path, f"has no weights: {' or '.join(SAFETENSORS_FILES)}")
        if (self.path / "adapter_config.json").exists():
            raise refusal(
                self.path, "holds an adapter; merge it into its model (merge_and_unload) and save_pretrained(…) that"
            )
        if not self._has(TOKENIZER_FILES):
            raise refusal(
                self.path,
                "has no tokenizer; write tokenizer.json into it with its tokenizer's save_pretrained(…)",
            )

    def _has(self, names: tuple[str, ...]) -> bool:
        return any(next(self.path.glob(name), None) is not None for name in names)
