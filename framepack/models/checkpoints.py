"""Checkpoints of other libraries' classes: loaded by them, silently, but held to our strictness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from framepack.errors import WeightsError

_OLD_BUFFERS = ("position_ids", "inv_freq")
"""Constants that older versions stored as tensors; today's classes compute them."""


def load_pretrained(
    model_class: Any, folder: Path, device: torch.device, dtype: torch.dtype
) -> Any:
    """A transformers model from a local folder, straight to a device in a dtype.

    Raises:
        WeightsError: The folder holds no such model, or not exactly its tensors: transformers alone
            would fill a missing one with random numbers and go on.
    """
    try:
        with without_progress_bars():
            model, info = model_class.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"no {model_class.__name__} in {folder}: {error}") from error
    faults = {kind: sorted(map(str, keys)) for kind, keys in info.items()}
    unexpected = faults.get("unexpected_keys", [])
    faults["unexpected_keys"] = [k for k in unexpected if not k.endswith(_OLD_BUFFERS)]
    if any(faults.values()):
        named = {kind: keys for kind, keys in faults.items() if keys}
        raise WeightsError(f"{folder} does not hold exactly a {model_class.__name__}: {named}")
    return model


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Silence transformers' bars: a library and a worker's log have no use for them."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
