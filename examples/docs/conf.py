"""Sphinx makes the site: `python -m sphinx -W -b html examples/docs OUT`."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent.parent))  # the examples, and fxprune where it is not installed

import torch  # noqa: E402

import fxprune  # noqa: E402
import tests.vision  # noqa: E402, F401  (before a trainer imports torchvision)
from examples.docs.tables import with_changes  # noqa: E402

torch.set_num_threads(1)  # the gallery's networks are small

project = "fxprune"
release = fxprune.__version__
html_title = f"fxprune {release}"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery_scripts", "gallery/**/*.py", "gallery/*.ipynb", "gallery/*.zip"]
nitpicky = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings quote code in single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery_scripts",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/\w+\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "min_reported_time": 0,
    "show_memory": False,
    "write_computation_times": False,
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib", "examples.docs.digits.restyle"),
    "within_subsection_order": "FileNameSortKey",
}


def setup(app):  # type: ignore[no-untyped-def]
    """Pages say under their tables whether the code has changed since these were measured."""

    def say(app, page, source):  # type: ignore[no-untyped-def]
        source[0] = with_changes(source[0])

    app.connect("source-read", say)
