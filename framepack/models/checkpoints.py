"""Checkpoints of other libraries' classes, loaded by them but held to our strictness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from framepack.errors import WeightsError


def load_pretrained(
    model_class: Any, folder: Path, device: torch.device, dtype: torch.dtype
) -> Any:
    """A transformers model from a local folder, straight to a device in a dtype.

    Raises:
        WeightsError: The folder holds no such model, or not exactly its tensors: transformers alone
            would fill a missing one with random numbers and go on.
    """
    try:
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
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        raise WeightsError(f"{folder} does not hold exactly a {model_class.__name__}: {wrong}")
    return model
