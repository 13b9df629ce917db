"""Texts to tokens, by the folder's own fast tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .folder import Folder, refusal

if TYPE_CHECKING:
    from tokenizers import Encoding

# What a tokenizer that was never told a length says is astronomical; no model reads this many tokens at once.
MAX_TOKENS = 1 << 20
# Characters. A token of English has four or five, so this many times the length at which texts are cut are enough.
LONG_TOKEN = 16


class Tokenizer:
    """The folder's tokenizer. Raises ModelLoadError if there is none that is fast and can pad.

    `padding_id` and `padding_type` stand behind a text that is shorter than its neighbours, `size` is one more than the
    largest id, `max_tokens` the length at which a text is cut, its special tokens included.
    """

    def __init__(self, folder: Folder) -> None:
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library's and the JSON's are of many kinds
            raise refusal(
                folder.path, f"its tokenizer cannot be read: {type(error).__name__}: {error}; copy the folder again"
            ) from error
        if not found.is_fast:
            raise refusal(
                folder.path,
                f"its {type(found).__name__} is not a fast tokenizer, which offsets and speed need; save one with "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…), which writes tokenizer.json",
            )
        vocabulary: dict[str, int] = found.get_vocab()
        if not vocabulary.keys() - set(found.all_special_tokens):
            # Made of files of another kind; the library does not mind.
            raise refusal(
                folder.path,
                "its tokenizer knows no words but the special ones, because the files of its vocabulary are missing; "
                "write tokenizer.json into it with its tokenizer's save_pretrained(…)",
            )
        if found.pad_token_id is None:
            raise refusal(
                folder.path,
                "its tokenizer has no padding token, so texts cannot share a batch; name one in tokenizer_config.json: "
                '"pad_token": "…"',
            )
        self.padding_id: int = found.pad_token_id
        self.padding_type: int = found.pad_token_type_id
        self.has_types = "token_type_ids" in found.model_input_names
        self.size = max(vocabulary.values()) + 1
        self._side: str = found.truncation_side
        # The library's own call costs twice what its core does, for one text (44 µs and 22 µs for 14 tokens).
        self._core = found.backend_tokenizer
        self._core.no_padding()
        self.max_tokens = MAX_TOKENS
        self.cut_at(found.model_max_length)

    def cut_at(self, tokens: int) -> None:
        """Cuts texts at so many tokens, if not at fewer."""
        self.max_tokens = min(self.max_tokens, tokens)
        self._core.enable_truncation(self.max_tokens, direction=self._side)

    def __call__(self, text: str) -> Encoding:
        """The tokens of a text, at most `max_tokens`. Raises ValueError if there are none."""
        encoding = self._beginning(text) or self._core.encode(text)
        if not encoding.ids:
            raise ValueError("the text has no tokens")
        return encoding

    def _beginning(self, text: str) -> Encoding | None:
        """The tokens of a long text from its beginning alone: a megabyte takes a second, and its end is cut away
        anyhow. None if the beginning is not sure to be enough: it must have as much again behind the cut, because a
        word that ends where it ends can have other tokens."""
        enough = self.max_tokens * LONG_TOKEN
        if len(text) <= enough or self._side != "right":
            return None
        encoding: Encoding = self._core.encode(text[:enough])
        return encoding if len(encoding.overflowing) >= 2 else None
