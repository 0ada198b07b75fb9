"""Kill saving, shrinking, training and exporting, and see whether anything is lost.

    python -m tests.faults --kills 200
    python -m tests.faults --cycles 1000

The first kills processes at random moments and checks what is on disk after each; the second
prepares and folds a model so often, and checks that objects, hooks, files and memory stay.
"""

import argparse
import tempfile
from pathlib import Path

from tests.faults.cycles import leaks
from tests.faults.kills import SCENARIOS, killed

SHARES = {"save": 0.3, "shrink": 0.2, "train": 0.3, "prune files": 0.1, "export": 0.1}


def main(arguments: list[str] | None = None) -> None:
    """Raise at the first thing lost; print what was done."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in SCENARIOS if options.kills else ():
        number = max(1, round(options.kills * SHARES[name]))
        with tempfile.TemporaryDirectory() as folder:
            running = killed(name, Path(folder), number, options.seed)
        print(f"{name}: killed {running} times while it ran, nothing lost")
    if options.cycles:
        print(f"{options.cycles} cycles of prepare and fold: {leaks(options.cycles)}")


if __name__ == "__main__":
    main()
