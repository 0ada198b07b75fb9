"""Reports as HTML."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

import fxprune
from fxprune.errors import InputError
from fxprune.pages.environment import environment
from fxprune.pages.writing import short
from fxprune.reports import Report
from tests.pages.reports import HOSTILE, POINTS, VERDICT, report
from tests.torch.models import Residual, images, randomise

VOID = {"meta", "link", "img", "br", "hr", "wbr"}


class Page(HTMLParser):
    """The elements of a page and its text; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(tmp_path, subject, **options) -> tuple[str, Page]:
    path = fxprune.write_report(subject, tmp_path / "report.html", **options)
    text = path.read_text()
    return text, Page(text)


def test_page_shows_the_figures_of_a_pruned_module(tmp_path):
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.5)
    fxprune.reach_target(gated)
    folded = fxprune.fold(gated)
    verdict = fxprune.verify(gated, folded)
    _, page = written(tmp_path, folded, verdict=verdict, latency=False)
    found = fxprune.report(folded, latency=False)
    for layer in found.layers:
        assert f"{layer.name} {layer.op}" in page.text
    share = found.after["macs"] / found.before["macs"]
    for words in (f"Keeps {100 * share:.1f} %", "network output", "Verified", "gated == folded"):
        assert words in page.text
    assert "Latency was not measured" in page.text


def test_page_without_verdict_says_so(tmp_path):
    _, page = written(tmp_path, report())
    assert "Not verified in this report" in page.text
    assert "Verified:" not in page.text


def test_page_shows_what_the_method_says_of_itself(tmp_path):
    _, page = written(tmp_path, replace(report(), figures={"consensus_gap": 0.0123}))
    assert "consensus_gap: 0.0123" in page.text


def test_page_needs_nothing_else(tmp_path):
    text, page = written(tmp_path, report(), points=POINTS, verdict=VERDICT)
    assert len(page.all("script")) == 1 and not page.all("link") and not page.all("img")
    assert not re.search(r"https?:|@import|url\((?!#)|fetch\(|XMLHttp|import\(", text)


def test_page_runs_its_own_script_only(tmp_path):
    """The policy has the hash of what stands between the tags, to the letter."""
    text, page = written(tmp_path, report())
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and policy.endswith(
        f"script-src 'sha256-{digest}'"
    )
    assert "innerHTML" not in script and "eval" not in script


def test_page_says_how_the_model_came_about(tmp_path):
    origin = {"method": "wanda", "seed": "3", "command": "fxprune prune a.onnx <b>"}
    found = replace(report(), origin=origin, targets={"macs": 10.0}, reached={"macs": 9.0})
    _, page = written(tmp_path, found)
    assert "method: wanda" in page.text and "command: fxprune prune a.onnx <b>" in page.text
    assert "target of macs: at most 10, 9 reached" in page.text


def test_names_from_a_model_stay_text(tmp_path):
    text, page = written(tmp_path, report(name=HOSTILE), points=POINTS, verdict=VERDICT)
    assert text.count("<script") == 1
    assert page.text.count(HOSTILE) > 5
    assert page.all("script") == [{}]


def test_page_is_accessible(tmp_path):
    _, page = written(tmp_path, report(), points=POINTS, verdict=VERDICT)
    assert page.all("html") == [{"lang": "en"}]
    assert "Deep: what pruning did" in page.text
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for picture in page.all("svg"):
        described = picture.get("role") == "img" and picture.get("aria-label")
        assert described or picture.get("aria-hidden") == "true"
    known = {attributes.get("id") for _, attributes in page.elements}
    named = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert named and set(named) <= known
    assert all("scope" in header for header in page.all("th"))


def test_removed_layers_are_told_by_words_and_by_pattern(tmp_path):
    text, page = written(tmp_path, report(layers=20))
    gone = sum(layer.removed for layer in report(layers=20).layers)
    assert f"{gone} layers are gone" in page.text
    assert "Removed whole: backbone+ (5 nodes)." in page.text
    assert page.text.count("16 → removed") == 2 * gone, "in the table and in the graph"
    assert sum(rect.get("class") == "removed" for rect in page.all("rect")) == 5 * gone + 1
    assert 'id="hatch"' in text


def test_page_of_a_model_without_layers_is_written(tmp_path):
    empty = Report(source="Empty", rows=(), layers=(), before={"macs": 0}, after={"macs": 0})
    _, page = written(tmp_path, empty)
    assert "Nothing has been removed" in page.text
    assert "Nothing in this model is free" in page.text


@pytest.mark.parametrize(
    ("place", "complaint"),
    [("missing/report.html", "there is no folder"), (".", "is a folder; name a file in it")],
)
def test_places_that_are_none_are_refused(tmp_path, place, complaint):
    with pytest.raises(InputError, match=complaint):
        fxprune.write_report(report(), tmp_path / place)
    assert not list(tmp_path.iterdir())


def test_failure_leaves_the_old_page(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(InputError, match="disk"):
        fxprune.write_report(report(), tmp_path / "report.html", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_what_has_no_report_is_refused(tmp_path):
    with pytest.raises(InputError, match="must be a gated or folded module"):
        fxprune.write_report(Residual(), tmp_path / "report.html")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999_600, "1 M"), (1_820_000, "1.82 M"), (4.1e9, "4.1 G")],
)
def test_short_numbers(number, text):
    assert short(number).replace("\u00a0", " ") == text


def test_environment_names_versions_and_processor():
    found = environment()
    assert found["torch"] == __import__("torch").__version__
    assert "logical cores" in found["processor"] and "unknown" not in found["processor"]


def test_trials_and_cuts_are_shown(tmp_path):
    gated = fxprune.prepare(randomise(Residual()), images())
    found = fxprune.search(gated, "params", trials=45, sampler="random", target=0.6)
    cut = fxprune.sensitivity(gated, "params", shares=[0.5])
    options = {"points": found, "sensitivity": cut}
    page = fxprune.write_report(gated, tmp_path / "a.html", latency=False, **options).read_text()
    assert "Params over macs" in page and page.count('r="5"><title>') == len(
        {(t.costs["macs"], t.scores["params"]) for t in found}
    )
    assert page.count(">yes</td>") == len({t.costs["macs"] for t in front_by_macs(found)})
    assert "What each group is worth" in page and "4 of 8" in page
    files = fxprune.write_figures(gated, tmp_path / "figures", **options)
    assert [file.name for file in files][-1] == "sensitivity.png"
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def front_by_macs(found):
    """The trials that no other exceeds in parameters with as few MACs."""
    return [
        t
        for t in found
        if not any(
            o.costs["macs"] <= t.costs["macs"]
            and o.scores["params"] >= t.scores["params"]
            and (o.costs["macs"], o.scores["params"]) != (t.costs["macs"], t.scores["params"])
            for o in found
        )
    ]
