"""Hugging Face folders, as `save_pretrained` writes them: `inferd serve hf:/path/to/folder`.

Nouns:

    folder       what its JSON files say: the task, how texts are pooled; and what is refused     folder.py
    tokenizer    a text's tokens, with the characters each stands for                             tokenizer.py
    network      the weights on the device, in the dtype that fits it                             network.py
    text model   preprocess and forward, as all tasks share them                                  text.py
    task         what becomes of a network's outputs: spans, labels, an embedding                 spans.py, labels.py,
                                                                                                  embedding.py

A folder is data: weights come from safetensors alone, no code in it is ever run, and nothing is looked for on the
network. `transformers` is imported when a folder is opened, in the worker.
"""

from __future__ import annotations

from .folder import Folder, Task, refusal
from .text import TextModel


def open_folder(folder: str, **others: object) -> TextModel:
    """The model of a folder, without its weights. Raises ModelLoadError."""
    found = Folder(folder)
    if others:
        raise refusal(found.path, f"a folder takes no arguments (--set {', '.join(others)})")
    if found.task is Task.TOKEN_CLASSIFICATION:
        from .spans import TokenClassification

        return TokenClassification(found)
    if found.task is Task.TEXT_CLASSIFICATION:
        from .labels import TextClassification

        return TextClassification(found)
    from .embedding import SentenceEmbedding

    return SentenceEmbedding(found)


__all__ = ["open_folder"]
