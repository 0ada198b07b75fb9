"""What a browser makes of a report, at the width of a phone and of a desk, light and dark."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import fxprune
from tests.pages.reports import HOSTILE, POINTS, VERDICT, report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on PATH")

SCHEMES = {"dark": 0, "light": 1}
FRAME = """<!doctype html>
<meta name="color-scheme" content="light dark">
<body style="margin: 0"><iframe style="width: {width}px; height: 2400px; border: 0"
  srcdoc="{page}" onload="
  const root = this.contentDocument.documentElement;
  document.body.dataset.width = this.contentWindow.innerWidth;
  document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
"></iframe></body>
"""
"""A window cannot be as narrow as a phone, so the page is shown in a frame that is."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    return fxprune.write_report(report(200, HOSTILE), path, points=POINTS, verdict=VERDICT)


def check_fits(page: Path, width: int, scheme: str) -> np.ndarray:
    """The page as a picture, after a look at its width."""
    frame, shot = page.with_name("frame.html"), page.with_name(f"{width}-{scheme}.png")
    frame.write_text(FRAME.format(width=width, page=html.escape(page.read_text())))
    settings = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={max(width, 500)},2400",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--user-data-dir={page.parent / 'profile'}",
        f"--screenshot={shot}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [str(BROWSER), *settings, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', done.stdout))
    assert found["width"] == str(width)
    assert int(found["overflow"]) <= 0, f"{found['overflow']} pixels too wide"
    return matplotlib.image.imread(shot)[:, :width, :3]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [390, 1440])
def test_page_looks_right(page, width, scheme):
    picture = check_fits(page, width, scheme)
    assert picture.shape[1] == width
    assert len(np.unique((picture * 255).astype(int) @ [1, 256, 65536])) > 50
    paper = picture[0, 0].mean()
    assert paper > 0.9 if scheme == "light" else paper < 0.2
    ink = np.abs(picture - picture[0, 0]).max(axis=2) > 0.1
    assert 0.03 < ink.mean() < 0.6, "blank, or a wall of colour"


CLICKS = """<!doctype html>
<body><iframe style="width: 1000px; height: 900px" srcdoc="{page}" onload="
  const page = this.contentDocument, found = document.body.dataset;
  const stop = page.querySelector('.stop[data-number=\\'3\\']');
  if (!page.querySelector('.controls').hidden) found.runs = 'yes';
  stop.click();
  found.told = page.getElementById('stop-told').textContent;
  found.near = page.querySelectorAll('.stop.near').length;
  page.querySelector('[data-shows=after]').click();
  found.shows = page.querySelector('.graph').dataset.showing;
  const table = page.querySelector('table.layers');
  table.tHead.rows[0].cells[2].querySelector('button')?.click();
  found.first = table.tBodies[0].rows[0].cells[2].dataset.value;
  table.tHead.rows[0].cells[2].querySelector('button')?.click();
  found.last = table.tBodies[0].rows[0].cells[2].dataset.value;
  const field = table.closest('.scroll').previousElementSibling;
  field.value = 'STEM';
  field.dispatchEvent(new Event('input'));
  found.left = [...table.tBodies[0].rows].filter(row => !row.classList.contains('hidden')).length;
"></iframe></body>
"""


def clicked(page: Path, text: str) -> dict[str, str]:
    """What comes of clicks on a page."""
    frame = page.with_name("clicks.html")
    frame.write_text(CLICKS.format(page=html.escape(text)))
    settings = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *settings, profile, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return dict(re.findall(r'data-(\w+)="([^"]*)"', done.stdout.rpartition("<body")[2]))


def test_page_can_be_searched_sorted_and_followed(page):
    costs = [layer.macs_after for layer in report(200, HOSTILE).layers]
    found = clicked(page, page.read_text())
    assert found["runs"] == "yes" and found["shows"] == "after"
    assert "reads" in found["told"] and "feeds" in found["told"]
    assert int(found["near"]) >= 3
    assert (int(found["first"]), int(found["last"])) == (min(costs), max(costs))
    assert found["left"] == "1"


def test_another_script_does_not_run(page):
    text = page.read_text()
    assert "runs" not in clicked(page, text.replace('"use strict";', '"use strict"; 1;'))


def test_what_is_too_wide_is_found(page):
    wide = page.with_name("wide.html")
    wide.write_text(page.read_text().replace("</main>", "<pre>" + "x" * 400 + "</pre></main>"))
    with pytest.raises(AssertionError, match="pixels too wide"):
        check_fits(wide, 390, "light")
