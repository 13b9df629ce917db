"""The weights of a folder, from safetensors alone, on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .folder import SUPPORTED, Folder, Task, refusal


def read_config(folder: Folder) -> Any:
    """The library's view of config.json. Raises ModelLoadError."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise refusal(
            folder.path,
            f"config.json is nothing that this version of transformers knows, without code of its own: {error}",
        ) from error
    if elsewhere := getattr(config, "transformers_weights", None):
        # The library would follow it, and another file than the one that was checked and pinned would be served.
        raise refusal(
            folder.path,
            f"config.json takes the weights from {elsewhere} (transformers_weights), and only model.safetensors or its "
            "shards are served; give that file this name, and take the key out",
        )
    config.use_cache = False  # of keys and values, for generating text
    return config


def dtype_for(half: str, device: torch.device) -> torch.dtype:
    """float32; on a CUDA device the half precision that the weights were trained in, if it was one."""
    dtype: torch.dtype = getattr(torch, half) if half and device.type == "cuda" else torch.float32
    return dtype


def load_network(folder: Folder, config: Any, device: torch.device) -> torch.nn.Module:
    """The network with its weights, in evaluation mode. Raises ModelLoadError."""
    import transformers

    kind, known = {
        Task.TOKEN_CLASSIFICATION: (
            transformers.AutoModelForTokenClassification,
            transformers.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        ),
        Task.TEXT_CLASSIFICATION: (
            transformers.AutoModelForSequenceClassification,
            transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        ),
        Task.SENTENCE_EMBEDDING: (transformers.AutoModel, transformers.MODEL_MAPPING),
    }[folder.task]
    if type(config) not in known:
        version = transformers.__version__
        raise refusal(folder.path, f"transformers {version} has no such {config.model_type} model; {SUPPORTED}")
    try:
        with _quiet():
            network, report = kind.from_pretrained(
                folder.path,
                config=config,
                dtype=dtype_for(folder.half, device),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise refusal(
            folder.path, f"its weights cannot be loaded: {type(error).__name__}: {said}; copy the folder again"
        ) from error
    # What is missing would be made up at random. An embedding has no use for the pooler.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise refusal(
            folder.path,
            f"its weights lack {missing[0]} (of {len(missing)} that are missing), so it was not trained for what "
            "config.json says; save the trained model again with save_pretrained(…)",
        )
    if network.main_input_name != "input_ids":
        raise refusal(folder.path, f"takes {network.main_input_name} and no text; {SUPPORTED}")
    moved: torch.nn.Module = network.to(device).eval()
    if device.type == "cpu":
        # The library maps the file: whoever wrote into it would change the answers, or end the worker with a SIGBUS.
        for tensor in (*moved.parameters(), *moved.buffers()):
            tensor.data = tensor.data.clone()
    return moved


def positions(network: torch.nn.Module, config: Any) -> int | None:
    """How many tokens the network can tell apart by their place; None if any number."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding's.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(config, "max_position_embeddings", None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar and report: what matters of it is an error here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()
