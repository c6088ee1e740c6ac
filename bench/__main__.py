"""`python -m bench NAME [options]`: run one measurement; without a name, list them."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import bench


def main(arguments: Sequence[str]) -> int:
    """Run the measurement that is named first; returns the exit status."""
    names = sorted(
        m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_")
    )
    # Threads that spin while they wait take the cores from whatever is measured beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not arguments or arguments[0] not in names:
        sys.stderr.write(f"usage: python -m bench {{{','.join(names)}}} [options]\n")
        return 2
    status: int = importlib.import_module(f"bench.{arguments[0]}").main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
