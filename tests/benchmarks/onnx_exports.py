"""Exported models through the ONNX route: timm and transformers, pruned at random and verified.

    python -m tests.benchmarks.onnx_exports transformers --json exports.json
    python -m tests.benchmarks.onnx_exports timm --every 5
    python -m tests.benchmarks.onnx_exports timm:vit_tiny_patch16_224 --seconds 180

Every model is exported by torch, then pruned to 60 % of its MACs in random order: every kind of
group loses positions. `wrong` means that ONNX Runtime computes something else from the folded file
than from the masked one. Files that torch's exporter cannot write are counted apart.
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fxprune
from tests.benchmarks.apart import found_apart
from tests.benchmarks.results import Results
from tests.coverage.zoo import FAMILIES, names_of

TARGET = 0.6


@dataclass(slots=True)
class Row:
    """One model; `status` is ok, wrong, nothing to prune, not exported, or failed."""

    model: str
    status: str = "failed"
    reason: str = ""
    groups: int = 0
    branches: int = 0
    error: float = 0.0
    pins: dict[str, int] = field(default_factory=dict)


def measure(item: str) -> Row:
    """Export, prune and verify one model, called `family:name`."""
    family, _, name = item.partition(":")
    row = Row(item)
    model, inputs = FAMILIES[family].build(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = fxprune.export_onnx(model.eval(), Path(folder) / "model.onnx", inputs)
        except Exception as error:
            row.status, row.reason = "not exported", _first_line(error)
            return row
        try:
            analysis = fxprune.inspect_onnx(path)
            row.groups, row.branches = len(analysis.free_groups), len(analysis.branches)
            pins = (group.pin.partition(" at ")[0] for group in analysis.groups if group.pin)
            row.pins = dict(Counter(pins).most_common())
            result = fxprune.prune_onnx(path, target=TARGET, method="random")
            row.status, row.error = "ok", max(result.verdict.worst.values())
        except fxprune.VerificationError as error:
            row.status, row.reason = "wrong", _first_line(error)
        except fxprune.NothingToPruneError as error:
            row.status, row.reason = "nothing to prune", _first_line(error)
        except Exception as error:
            row.reason = _first_line(error)
    return row


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]


def in_a_process(item: str, seconds: float) -> Row:
    """The row of a model, measured with a limit of time."""
    found, reason = found_apart(seconds, "-W", "ignore", "-m", __spec__.name, item, "--one")
    return Row(**found) if found else Row(item, reason=reason)


def main() -> None:
    """Measure all models that are asked for, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="a family, or family:name")
    parser.add_argument("--every", type=int, default=1, help="only every n-th model")
    parser.add_argument("--seconds", type=float, default=600, help="how long a model may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        print(json.dumps(asdict(measure(options.names[0]))))
        return
    rows: list[Row] = []
    results = Results(options.json)
    for item in names_of(options.names)[:: options.every]:
        rows.append(row := in_a_process(item, options.seconds))
        print(f"{row.model:45} {row.status:16} {row.error:.1e} {row.reason}", flush=True)
        results.add(row)
    print(dict(Counter(row.status for row in rows)))
    print(f"largest error {max((row.error for row in rows), default=0):.1e}")


if __name__ == "__main__":
    main()
