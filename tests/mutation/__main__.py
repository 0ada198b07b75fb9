"""Which test notices each sabotage? Exit status 1 if one is not noticed.

    python -m tests.mutation
    python -m tests.mutation --only "slice"
    python -m tests.mutation --json noticed.json --resume

Progress is kept in the JSON file after every sabotage; `--resume` goes on from there, and tries
again what nothing has noticed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from fxprune.files import draft_of
from tests.mutation.killers import killer_of, names_by_distance
from tests.mutation.table import SABOTAGES


def main(arguments: list[str] | None = None) -> int:
    """Try every sabotage and print who noticed it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--json", type=Path, help="what was found, and the state to resume from")
    parser.add_argument("--resume", action="store_true", help="go on from what was found")
    options = parser.parse_args(arguments)
    chosen = [each for each in SABOTAGES if options.only in each.name]
    killers: dict[str, str] = {}
    if options.resume and options.json and options.json.exists():
        killers = json.loads(options.json.read_text())
    console = Console(soft_wrap=True, highlight=False)
    start = time.monotonic()
    for sabotage in chosen:
        if not killers.get(sabotage.name):
            near, far = names_by_distance(sabotage.seen_by)
            killers[sabotage.name] = killer_of(sabotage, near) or killer_of(sabotage, far)
            if options.json:
                with draft_of(options.json, overwrite=True) as draft:
                    draft.write_text(json.dumps(killers, indent=1))
        killer = killers[sabotage.name] or "SURVIVES"
        console.print(f"{sabotage.name}: {killer}", markup=False)
    survivors = [each.name for each in chosen if not killers[each.name]]
    noticed, seconds = len(chosen) - len(survivors), time.monotonic() - start
    console.print(f"{noticed} of {len(chosen)} sabotages are noticed, in {seconds:.0f} s")
    for name in survivors:
        console.print(f"not noticed: {name}", style="bold")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
