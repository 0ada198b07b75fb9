"""Runs a recipe where transformers can be imported: `python -m tests.recipes.launch FILE`."""

import runpy
import sys

from tests import vision

if __name__ == "__main__":
    assert vision.torchvision
    runpy.run_path(sys.argv[1], run_name="__main__")
