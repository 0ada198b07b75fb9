"""What a user gets, and which part of it may import which, compared with the files on disk.

`python -m tests.test_packaging WHEEL` compares the contents of a built wheel as well.
"""

import ast
import graphlib
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import fxprune

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PASSES = "fxprune/passes"  # where the top-level folder passes/ lies in a wheel

# From the bottom up: what stands in a row imports from the rows below it, and nobody goes round in
# circles. A wing's own modules are its verbs; `__init__` is fxprune itself, which loads its public
# names lazily.
LAYERS = (
    "errors version",
    "extras",
    "arguments",
    "ir timing stages garbage files agreement certificates shelf markup clocks time_search",
    "passes",
    "layout selectors uniform",
    "targets keep_sets filling reports matrices tradeoffs",
    "ranking searching",
    "flow sensitivities",
    "criteria mixing",
    "onnx.frontend torch.frontend",
    "onnx.backend torch.budget",
    "torch.gates",
    "torch.backend",
    "onnx",
    "torch",
    "reporting scores",
    "environments pages __init__",
    "cli commands testing integrations",
)
HEIGHT = {area: height for height, areas in enumerate(LAYERS) for area in areas.split()}

# Imports inside of functions: what an extra brings, and what is not wanted at every start.
LATE = {
    "fxprune.cli": "the command line starts without it where the extra cli is missing",
    "fxprune.commands.checking": "pages draw figures, demonstrations make files: few commands do",
    "fxprune.reporting": "torch and ONNX are extras of their own",
    "fxprune.torch.reach_latency": "torch measures without the extra onnx",
}

FRAMEWORKS = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "numpy"}
FRAMEWORK_FREE = {"errors", "ir", "passes", "reports"}
ONE_WING = {"onnx": "torch", "torch": "onnx"}
"""What a wing does without, but for the verbs of torch that run files."""


# What is shipped


def files_on_disk() -> dict[str, Path]:
    """Every file of the packages, by its name in a wheel."""
    folders = {"fxprune": ROOT / "fxprune", PASSES: ROOT / "passes"}
    return {
        f"{prefix}/{file.relative_to(folder).as_posix()}": file
        for prefix, folder in folders.items()
        for file in sorted(folder.rglob("*"))  # does not follow the link fxprune/passes
        if file.is_file() and "__pycache__" not in file.parts
    }


def check_shipped(names: Iterable[str]) -> None:
    """The names in a wheel are those of the files on disk, its metadata aside."""
    shipped = {name for name in names if ".dist-info/" not in name}
    on_disk = set(files_on_disk())
    assert shipped == on_disk, (
        f"left out: {sorted(on_disk - shipped)}; not ours: {sorted(shipped - on_disk)}"
    )


def test_packages_listed_are_those_on_disk():
    folders = {name.rpartition("/")[0] for name in files_on_disk() if name.endswith(".py")}
    packages = {name.rpartition("/")[0] for name in files_on_disk() if "__init__.py" in name}
    assert folders == packages, f"without __init__.py: {sorted(folders - packages)}"
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(
        package.replace("/", ".") for package in packages
    )


def test_link_shows_passes_to_type_checkers():
    assert os.readlink(ROOT / PASSES) == "../passes"


def test_package_says_it_is_typed():
    assert "fxprune/py.typed" in files_on_disk()


@pytest.mark.parametrize("missing", ["fxprune/passes/__init__.py", "fxprune/py.typed"])
def test_check_of_a_wheel_finds_what_is_left_out(missing):
    with pytest.raises(AssertionError, match=rf"left out: \['{missing}'\]"):
        check_shipped(set(files_on_disk()) - {missing})


def test_check_of_a_wheel_finds_what_is_not_ours():
    with pytest.raises(AssertionError, match=r"not ours: \['tests/conftest.py'\]"):
        check_shipped({*files_on_disk(), "tests/conftest.py", "fxprune-0.1.0.dist-info/WHEEL"})


def test_every_dependency_has_a_tested_version():
    def names(requirements: Iterable[str]) -> set[str]:
        return {re.match(r"[\w.-]+", each)[0].lower() for each in requirements}

    project = PROJECT["project"]
    wanted = names(project["dependencies"]).union(
        *map(names, project["optional-dependencies"].values())
    )
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = names(line for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))
    assert wanted - {"fxprune"} <= tested


def test_what_is_to_be_cited_is_this_version():
    cited = dict(re.findall(r"^(\w+): (\S.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert cited["version"] == PROJECT["project"]["version"] == fxprune.__version__
    assert cited["license"] == PROJECT["project"]["license"]


# Who imports whom


def imports(module: str, source: str) -> Iterator[tuple[int, str, bool]]:
    """Line and absolute name of all that a module imports, and whether a function does it."""
    tree = ast.parse(source)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = [*parents, node.module] if node.module else parents
            for alias in node.names:
                yield node.lineno, ".".join([*origin, alias.name]), id(node) in late


def area_of(name: str) -> str:
    """fxprune.passes.axes.Space lies in passes; fxprune.prepare is a name of fxprune itself."""
    parts = name.split(".")[1:]
    areas = [".".join(parts[:length]) for length in (2, 1)]
    return next((area for area in areas if area in HEIGHT), "__init__")


def check_layering(sources: Mapping[str, str]) -> None:
    """Imports point one way, and frameworks stay above the passes.

    Args:
        sources: Source text by module, where a package is named with its `.__init__`.
    """
    wrong = []
    inner: dict[str, set[str]] = {}
    for module, source in sources.items():
        area = area_of(module)
        if area == "__init__" and module != "fxprune.__init__":
            wrong.append(f"{module} has no layer: give {module.split('.')[1]!r} a place in LAYERS")
            continue
        inner[module] = set()
        for line, name, late in imports(module, source):
            top = name.split(".")[0]
            if late and top == "fxprune" and module not in LATE:
                wrong.append(f"{module}:{line} imports {name} inside of a function")
            if top == "fxprune":
                inner[module].update({name, name.rpartition(".")[0]})
            if top == "fxprune" and HEIGHT[area_of(name)] > HEIGHT[area]:
                wrong.append(f"{module}:{line} imports {name} from a layer above")
            if top in FRAMEWORKS and area in FRAMEWORK_FREE:
                wrong.append(f"{module}:{line} imports {name}, a framework")
            if "." in area and top == ONE_WING.get(area.split(".")[0]):
                wrong.append(f"{module}:{line} imports {name}, which is of the other wing")
    try:
        graphlib.TopologicalSorter(
            {module: others & inner.keys() - {module} for module, others in inner.items()}
        ).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"import each other: {' -> '.join(reversed(error.args[1]))}")
    assert not wrong, "\n".join(wrong)


def modules_on_disk() -> dict[str, Path]:
    return {
        name.removesuffix(".py").replace("/", "."): file
        for name, file in files_on_disk().items()
        if name.endswith(".py")
    }


def test_imports_point_one_way():
    check_layering({module: file.read_text() for module, file in modules_on_disk().items()})


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"fxprune.passes.axes": "import fxprune.torch.fold"}, "axes:1 imports fxprune.torch.fold"),
        (
            {"fxprune.passes.axes": "from fxprune import torch"},
            "imports fxprune.torch from a layer",
        ),
        ({"fxprune.passes.axes": "from ..torch import fold"}, "imports fxprune.torch.fold from a"),
        ({"fxprune.passes.__init__": "from .. import onnx"}, "imports fxprune.onnx from a layer"),
        ({"fxprune.onnx.prune": "import fxprune.torch.fold"}, "prune:1 imports fxprune.torch.fold"),
        ({"fxprune.errors": "def late():\n    import fxprune.ir"}, "errors:2 imports fxprune.ir"),
        (
            {"fxprune.onnx.prune": "def late():\n    import fxprune.ir"},
            "prune:2 imports fxprune.ir inside of a function",
        ),
        (
            {"fxprune.torch.fold": "from fxprune import prepare"},
            "imports fxprune.prepare from a layer",
        ),
        ({"fxprune.passes.cost": "import torch.nn"}, "imports torch.nn, a framework"),
        ({"fxprune.ir": "from onnx import helper"}, "imports onnx.helper, a framework"),
        (
            {"fxprune.onnx.frontend.data": "import torch"},
            "data:1 imports torch, which is of the other wing",
        ),
        ({"fxprune.misc": ""}, "give 'misc' a place in LAYERS"),
        (
            {
                "fxprune.torch.fold": "import fxprune.torch.prepare",
                "fxprune.torch.prepare": "from fxprune.torch.fold import fold",
            },
            "import each other: fxprune.torch.",
        ),
    ],
)
def test_layering_check_finds(sources, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_layering(sources)


def test_layering_check_allows_what_points_down():
    check_layering(
        {
            "fxprune.torch.prepare": "import torch\nfrom fxprune.passes.axes import Space",
            "fxprune.torch.backend.fold": "from fxprune.torch.gates import module\nfrom . import x",
            "fxprune.passes.infer": "import networkx\nfrom .axes import Space",
            "fxprune.cli": "def main():\n    import fxprune.commands.app",
        }
    )


# What an import does


def test_public_names_are_where_type_checkers_are_told():
    tree = ast.parse((ROOT / "fxprune" / "__init__.py").read_text())
    told = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {a.name: node.module for node in told.body for a in node.names}
    assert homes == fxprune._HOME
    assert set(homes) == set(fxprune.__all__)
    assert all(getattr(importlib.import_module(home), name) for name, home in homes.items())


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs in the repository root, as a user who has just cloned it would."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def import_without_frameworks(modules: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Imports the modules in a process in which every framework but numpy is out of reach."""
    blocked = sorted(FRAMEWORKS - {"numpy"})  # networkx may use numpy
    return run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        f"for module in {list(modules)}: importlib.import_module(module)"
    )


def test_passes_and_reports_need_no_framework():
    passes = [
        module.removesuffix(".__init__")
        for module in modules_on_disk()
        if module.startswith("fxprune.passes.")
    ]
    assert "fxprune.passes" in passes
    done = import_without_frameworks([*passes, "fxprune.reports"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("framework", ["torch", "onnx"])
def test_blocked_frameworks_cannot_be_imported(framework):
    done = import_without_frameworks([framework])
    assert f"import of {framework} halted" in done.stderr


def test_passes_have_one_name_only():
    done = run_python("import passes")
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "import fxprune.passes" in done.stderr


if __name__ == "__main__":
    check_shipped(zipfile.ZipFile(sys.argv[1]).namelist())
    print(f"{sys.argv[1]}: holds the files of the packages and nothing else")
