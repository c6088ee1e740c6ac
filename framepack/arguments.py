"""A command line whose picture may be left out: ``[IMAGE] PROMPT``, options anywhere."""

from __future__ import annotations

import argparse
import os.path
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """All arguments, wherever options stand between the optional ``image`` and the ``prompt``.

    argparse takes a word that options follow for the prompt, as the picture is optional. Where one
    word is left over behind them, the first was the picture.
    """
    options, left = parser.parse_known_args(arguments)
    behind = len(left) == 1 and not left[0].startswith("-")
    if behind and hasattr(options, "image") and options.image is None:
        options.image, options.prompt, left = Path(options.prompt), left[0], []
    # os.path, as Path raises for a text that is too long to be a name.
    elif getattr(options, "image", 0) is None and os.path.isfile(options.prompt):
        parser.error(f"{options.prompt} is a file: write IMAGE, then PROMPT")
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return options
