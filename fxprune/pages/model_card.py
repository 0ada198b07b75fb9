"""The model card of a pruned model: what was done to it, as a hub of models shows it."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fxprune.agreement import Verdict
from fxprune.arguments import flag, refusal
from fxprune.files import check_folder, check_output, draft_of, made_folder
from fxprune.pages.writing import described
from fxprune.passes.roles import WHOLE
from fxprune.passes.ties import place_in_block
from fxprune.reports import Report, Row
from fxprune.version import __version__

NAME = "README.md"
"""What hubs call a model card."""


def write_model_card(
    subject: Any,
    folder: str | Path,
    *,
    base_model: str | None = None,
    verdict: Verdict | None = None,
    overwrite: bool = False,
) -> Path:
    """Write README.md beside a pruned model: costs, what groups lost, how to load it.

    Its head is what the Hugging Face Hub reads: `base_model`, the library and the tags "fxprune"
    and "pruned". What nobody but the author knows (license, data, uses) is left to be added.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> smaller = fxprune.prune(model, torch.randn(1, 3, 8, 8))
    >>> card = fxprune.write_model_card(smaller, "smaller")  # doctest: +SKIP

    Args:
        subject: what `report` describes, or the `Report` itself.
        folder: where `save_pretrained` or `save` wrote the model; it is made if it does not exist.
        base_model: the model that was pruned, as hubs name it ("owner/name"). If missing, it is
            what the configuration of a Hugging Face model says it was loaded from.
        verdict: what `verify` returned.
        overwrite: whether a README.md that is there already may be replaced.

    Returns:
        The file.

    Raises:
        InputError: an argument does not fit, or the file is there.
    """
    if verdict is not None and not isinstance(verdict, Verdict):
        raise refusal("verdict", verdict, "what verify returned")
    base = _loaded_from(subject) if base_model is None else _checked(base_model)
    place = check_folder("folder", folder)
    flag("overwrite", overwrite)
    if place.is_dir():
        check_output("folder", place / NAME, overwrite=overwrite)
    found = described(subject, latency=False)
    text = (
        _templates()
        .get_template("model_card.md.jinja")
        .render(
            report=found,
            base=base,
            library=_library(subject),
            loading=_loading(subject, found),
            lost=_lost(found.rows),
            removed=[row.name for row in found.rows if row.kind in WHOLE and not row.kept],
            verdict=verdict,
            version=__version__,
        )
    )
    made_folder(place)
    with draft_of(place / NAME, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8")
    return place / NAME


def _templates() -> Environment:
    """Names come from models, and anybody may have made those: `code` makes them plain text."""
    templates = Environment(
        loader=PackageLoader("fxprune.pages", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["code"] = code
    return templates


def code(name: str) -> str:
    """A name as a span of code that cannot end early, or break the row of a table.

    >>> code("layer|`x`")
    '`layer/x`'
    """
    plain = "".join(c for c in name.replace("|", "/") if c.isprintable() and c != "`")
    return f"`{plain or ' '}`"


# What is told ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Groups at one place of repeated blocks: how many, of what sizes, and what is left."""

    name: str
    groups: int
    before: str
    after: str


def _lost(rows: Iterable[Row]) -> list[_Place]:
    """By place what groups of channels lost, where any lost something."""
    places: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind not in WHOLE:
            places[place_in_block(row.name)].append(row)
    return [
        _Place(name, len(own), _range(r.size for r in own), _range(r.kept for r in own))
        for name, own in places.items()
        if any(row.kept < row.size for row in own)
    ]


def _range(numbers: Iterable[int]) -> str:
    """One number, or the least and the largest."""
    least, *_, most = sorted((*numbers,) * 2)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name):
        raise refusal("base_model", name, 'a name such as "owner/name"')
    return name


def _loaded_from(subject: Any) -> str | None:
    """The name on a hub that a configuration remembers; folders of this machine are none."""
    name = getattr(getattr(subject, "config", None), "_name_or_path", None)
    is_name = isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists()
    return name if is_name else None


def _library(subject: Any) -> str | None:
    """What loads the model, by the name that hubs have for it."""
    if hasattr(subject, "bytes_before"):
        return "onnx"
    homes = {kind.__module__.partition(".")[0] for kind in type(subject).__mro__}
    return next((name for name in ("transformers", "diffusers") if name in homes), None)


def _loading(subject: Any, found: Report) -> str:
    """Python that makes the model anew, "" where the subject does not tell."""
    kind, library = found.source.rpartition(".")[2], _library(subject)
    if library and found.configured and not found.generated:
        is_its_own = type(subject).__module__.startswith(f"{library}.")
        start = f"from {library} import {kind}\n\n" if is_its_own else ""
        return f"{start}model = {kind}.from_pretrained(folder)"
    if found.generated is None or not kind.isidentifier():
        return ""
    return (
        "import fxprune\n\n"
        f"model = fxprune.load(folder, {kind}(...))  # as its constructor made it before pruning"
    )
