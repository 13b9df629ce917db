"""What all tasks share: a text becomes tokens, texts of like length one padded batch, the batch the network's outputs.

Padding is the daemon's: it pads what `padding` names and says how long each row was, which is the attention mask.
"""

from __future__ import annotations

import abc
import inspect
from typing import TYPE_CHECKING, Any

import torch

from .folder import Folder, refusal
from .network import load_network, positions, read_config
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding


class TextModel(abc.ABC):
    """A model of a folder: `text` in, a task's outputs out. Raises ModelLoadError, here and in load."""

    inputs = {"text": ("STRING", ())}
    example = {"text": "Ada Lovelace met Charles Babbage in London in 1833."}
    # There is no length before tokenization, and the bytes of the text are close enough to it.
    length_buckets = True

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise refusal(
                folder.path,
                "serving a Hugging Face folder needs transformers, which is not installed: pip install transformers",
            ) from error
        self.config = read_config(folder)
        self.tokenizer = Tokenizer(folder)
        if folder.max_tokens:
            self.tokenizer.cut_at(folder.max_tokens)
        if self.config.pad_token_id is None:
            # Some networks find a text's last token by what is padding behind it.
            self.config.pad_token_id = self.tokenizer.padding_id
        self.padding = {"input_ids": self.tokenizer.padding_id, "token_type_ids": self.tokenizer.padding_type}

    def load(self, device: torch.device) -> None:
        """The weights, onto the device."""
        self.network = load_network(self.folder, self.config, device)
        known = self.network.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if self.tokenizer.size > known:
            raise refusal(
                self.folder.path,
                f"its tokenizer has {self.tokenizer.size} tokens and its weights know {known}: they do not belong "
                "together; copy the folder again",
            )
        places = positions(self.network, self.config)
        if places is not None:
            self.tokenizer.cut_at(places)
        takes = inspect.signature(self.network.forward).parameters
        self._typed = self.tokenizer.has_types and "token_type_ids" in takes

    def preprocess(self, text: str) -> dict[str, Any]:
        """One text as `input_ids` and, if the network takes them, `token_type_ids`: INT64 [tokens]."""
        return self._tensors(self.tokenizer(text))

    @abc.abstractmethod
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A task's outputs for a padded batch."""

    def _tensors(self, encoding: Encoding) -> dict[str, Any]:
        tensors = {"input_ids": torch.tensor(encoding.ids)}
        if self._typed:
            tensors["token_type_ids"] = torch.tensor(encoding.type_ids)
        return tensors

    def _run(self, batch: dict[str, Any]) -> tuple[Any, torch.Tensor]:
        """The network's outputs for a padded batch, and its attention mask: INT64 [rows, longest]."""
        ids = batch["input_ids"]
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = (places < batch["input_ids.lengths"][:, None]).long()
        types = {"token_type_ids": batch["token_type_ids"]} if self._typed else {}
        return self.network(input_ids=ids, attention_mask=mask, **types), mask
