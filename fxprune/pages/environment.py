"""On what machine and with which versions was something measured?"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fxprune.version import __version__

_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
_CPU_FACTS = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Of what computes; packages are looked up, not imported."""
    facts = {"fxprune": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def environment() -> dict[str, str]:
    """What a reader needs to judge the figures."""
    return {
        **versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
    }


def _processor() -> str:
    """The name of the processor, which Linux alone does not tell Python."""
    if _CPU_FACTS.is_file():
        for line in _CPU_FACTS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
