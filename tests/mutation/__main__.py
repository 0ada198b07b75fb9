"""Which test notices each sabotage? Exit status 1 if one is not noticed.

python -m tests.mutation
python -m tests.mutation --only "slice"
"""

import argparse
import sys

from rich.console import Console

from tests.mutation.killers import killer_of, ordered
from tests.mutation.table import SABOTAGES


def main(arguments: list[str] | None = None) -> int:
    """Try every sabotage and print who noticed it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name contains this")
    chosen = [each for each in SABOTAGES if parser.parse_args(arguments).only in each.name]
    console = Console(soft_wrap=True, highlight=False)
    survivors = []
    for sabotage in chosen:
        killer = killer_of(sabotage, ordered(sabotage.seen_by))
        if not killer:
            survivors.append(sabotage.name)
        console.print(f"{sabotage.name}: [bold]{killer or 'SURVIVES'}[/bold]", markup=True)
    noticed = len(chosen) - len(survivors)
    console.print(f"{noticed} of {len(chosen)} sabotages are noticed; survivors: {survivors}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
