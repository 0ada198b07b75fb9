"""What a browser makes of the site: no page is wider than a phone or a desk."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest

from tests.pages.test_screenshots import BROWSER, check_fits
from tests.test_packaging import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is on PATH"),
    pytest.mark.skipif(not find_spec("sphinx_gallery"), reason="the extra docs is not installed"),
]
WIDE = (
    "index",
    "how_it_works",
    "pins",
    "reference/api",
    "reference/command_line",
    "measured/exactness",
    "measured/autobot",
)
"""Pages with pictures, wide tables, long signatures or long lines of code."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, without running its gallery; nothing is written beside its sources."""
    folder = tmp_path_factory.mktemp("site")
    sources = copytree(
        ROOT / "examples", folder / "examples", ignore=ignore_patterns("gallery", "__pycache__")
    )
    command = ["-m", "sphinx", "-q", "-D", "plot_gallery=0", sources / "docs", folder / "html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], check=True, env=environment, cwd=folder)
    return folder / "html"


@pytest.mark.parametrize("page", WIDE)
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_page_is_as_wide_as_the_window(site, page, width, scheme):
    picture = check_fits(site / f"{page}.html", width, scheme)
    assert picture.std() > 0.05, "blank"
    paper = np.median(picture)
    assert paper < 0.3 if scheme == "dark" else paper > 0.9
