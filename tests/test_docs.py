"""What the site has to tell is all there: public names, reasons of pins, a page for every task."""

import ast
import re
from collections.abc import Iterator

import pytest

import fxprune
import fxprune.testing
from examples.docs import tables
from tests.test_packaging import ROOT

DOCS = ROOT / "examples" / "docs"
PINS = (DOCS / "pins.md").read_text()
PLACE = "…"
"""What stands for values in messages, on the page and here."""


def described(page: str, module: str) -> set[str]:
    """The names of a module that a page of the reference describes."""
    text = (DOCS / "reference" / page).read_text()
    return set(
        re.findall(rf"^\.\. auto(?!module)\w+:: {re.escape(module)}\.(\w+)$", text, re.MULTILINE)
    )


def test_reference_describes_every_public_name():
    assert described("api.md", "fxprune") == set(fxprune.__all__)
    assert described("testing.md", "fxprune.testing") == set(fxprune.testing.__all__)


def test_front_page_links_the_page_of_every_task():
    front = (DOCS / "index.md").read_text()
    linked = set(re.findall(r"\]\((tasks/\w+\.md)\)", front))
    assert linked == {page.relative_to(DOCS).as_posix() for page in DOCS.glob("tasks/*.md")}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_measured_tables_are_those_of_the_results():
    pages = {page.name: page.read_text() for page in tables.PAGES.glob("*.md")}
    marked = {name: text for name, text in pages.items() if tables.MARKED.search(text)}
    assert {each[1] for text in marked.values() for each in tables.MARKED.findall(text)} == set(
        tables.TABLES
    )
    assert marked == {name: tables.filled(text) for name, text in marked.items()}
    wrong = marked["exactness.md"].replace("resnet18", "resnet19")
    assert tables.filled(wrong) == marked["exactness.md"]


# Reasons of pins


def text_of(expression: ast.expr | None) -> Iterator[str]:
    """The messages that an expression may be."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value
    elif isinstance(expression, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else PLACE for v in expression.values)
        yield "".join(map(str, parts))
    elif isinstance(expression, ast.IfExp):
        yield from text_of(expression.body)
        yield from text_of(expression.orelse)


def reasons_in(source: str) -> set[str]:
    """What pins are given as their reason: by argument, or by a variable of that name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", "")
            given = node.args[1:2] if name in ("pin", "opaque") else []
            given += [keyword.value for keyword in node.keywords if keyword.arg == "pin"]
            found.update(text for each in given for text in text_of(each))
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "reason" for target in node.targets
        ):
            found.update(text_of(node.value))
    return found


def check_told(source: str) -> None:
    """Every reason of a source file is on the page; one made of values alone says nothing."""
    reasons = {each for each in reasons_in(source) if re.search(r"\w{3}", each)}
    assert not {each for each in reasons if filled(each) not in PINS}


def filled(reason: str) -> str:
    """The reason as the page has it, with an example where it tells sizes."""
    return reason.replace(f"sizes {PLACE} and {PLACE}", "sizes 4 and 6")


OWN_CODE = ("prepare.py", "backend/caches.py", "backend/configuration.py")
TOLD = [
    *sorted((ROOT / "passes").glob("*.py")),
    *(ROOT / "fxprune" / "torch" / name for name in OWN_CODE),
]


@pytest.mark.parametrize("file", TOLD, ids=lambda file: file.stem)
def test_page_of_pins_tells_every_reason(file):
    check_told(file.read_text())


@pytest.mark.parametrize(
    "source",
    [
        'state.pin(axis, f"never heard of {node.place}")',
        'reason = "never heard of" if long else "network input"',
        'state.fresh(n, pin="never heard of")',
    ],
)
def test_reason_that_is_not_told_is_found(source):
    check_told('state.pin(axis, f"mixed by {node.place}")')
    with pytest.raises(AssertionError):
        check_told(source)


# Messages


def check_said(page: str, sources: str) -> None:
    """Every message in bold code is one that the sources have, but for what it is filled with."""
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings that go on in the next line
    messages = re.findall(r"\*\*`([^`]+)`", page)
    parts = [part for message in messages for part in message.split(PLACE) if len(part) > 4]
    assert parts
    assert not [part for part in parts if part.strip() not in said]


def test_messages_of_troubleshooting_are_said():
    page = (DOCS / "troubleshooting.md").read_text()
    sources = "".join(file.read_text() for file in (ROOT / "fxprune").rglob("*.py"))
    check_said(page, sources)
    with pytest.raises(AssertionError):
        check_said("**`the moon is … green`**", sources)
