"""What benchmarks write: rows one by one, and on which code they were measured."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.docs import tables
from tests.benchmarks import results


@dataclass
class Row:
    model: str
    share: float


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *own, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Two folders of code and something beside them, in one commit."""
    folder = tmp_path / "repository"
    for name in ("fxprune/a.py", "passes/b.py", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git(tmp_path, "init", "-q", "repository")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_every_row_is_in_the_file_at_once(tmp_path):
    path = tmp_path / "found.json"
    found = results.Results(path)
    for number in (1, 2):
        found.add(Row("a", number / 2))
        assert len(json.loads(path.read_text())["rows"]) == number
    results.append(path, {"model": "b"})
    again = results.Results(path, go_on=True)
    assert again.rows == [*found.rows, {"model": "b"}]
    assert results.read(path)["measured"] == [results.measured_here()]
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


def test_rows_that_cannot_be_written_leave_those_that_are(tmp_path):
    path = tmp_path / "found.json"
    results.save(path, [Row("a", 0.5)])
    before = path.read_text()
    with pytest.raises(TypeError):
        results.append(path, {"model": object()})
    assert path.read_text() == before


def test_rows_of_several_commits_name_all_of_them(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    for commit in ("1111111", "1111111", "2222222"):
        monkeypatch.setattr(results, "measured_here", lambda commit=commit: {"commit": commit})
        results.append(path, {})
    assert [one["commit"] for one in results.read(path)["measured"]] == ["1111111", "2222222"]


def test_commit_says_whether_there_are_changes(repository, tmp_path):
    head = git(repository, "rev-parse", "--short", "HEAD")
    assert results.commit(repository) == head
    git(repository, "tag", "v1")
    (repository / "README.md").write_text("changed")
    assert results.commit(repository) == f"{head}-dirty"
    assert results.commit(tmp_path) == "unknown"


def test_site_says_whether_code_has_changed_since(repository, tmp_path):
    head = git(repository, "rev-parse", "--short", "HEAD")
    line = tables.provenance([{"commit": head, "date": "2026-11-30"}])
    assert line == f"Measured on `{head}`, 2026-11-30.\n\n"
    (repository / "README.md").write_text("no code")
    assert tables.with_changes(line, repository) == line
    (repository / "passes" / "b.py").write_text("changed")
    changed = f"Measured on `{head}`, 2026-11-30. The code of fxprune and passes has changed since."
    assert tables.with_changes(line, repository).strip() == changed
    other = tables.provenance([{"commit": "0123456-dirty", "date": "2026-11-30"}])
    assert other.startswith("Measured on `0123456` with changes, 2026-11-30.")
    assert tables.with_changes(other, repository) == other
    assert tables.with_changes(line, tmp_path) == line


def test_every_table_names_a_commit_that_git_could_know():
    for file in sorted((tables.PAGES / "results").glob("*.json")):
        measured = results.read(file)["measured"]
        assert measured, file
        line = tables.provenance(measured)
        assert len(tables.MEASURED.findall(line)) == len(measured), file
