"""A table of trials: it prints, and other libraries read it."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Drawn

from fxprune.errors import MissingExtraError
from fxprune.files import check_output, draft_of

_MOST_ROWS, _MOST_COLUMNS = 20, 8
"""How much of a table is printed."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under the names of columns.

    >>> print(Table(("trial", "macs"), ((0, 1234567), (1, 0.5))))
    trial       macs
        0  1,234,567
        1        0.5
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def column(self, name: str) -> tuple[Any, ...]:
        """The values of one column."""
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Every row by the names of columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_pandas(self) -> Any:
        """A pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise _missing("pandas", "to_pandas") from error
        return pandas.DataFrame(list(self.rows), columns=list(self.columns))

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the table as .parquet (by pyarrow) or .csv.

        Raises:
            InputError: the name ends otherwise, or the file is there.
            MissingExtraError: pyarrow is not installed.
        """
        suffixes = (".parquet", ".csv")
        path = check_output("path", path, overwrite=overwrite, suffixes=suffixes)
        with draft_of(path, overwrite=overwrite) as draft:
            if path.suffix.lower() == ".csv":
                draft.write_text(self._as_csv(), encoding="utf-8", newline="")
            else:
                self._write_parquet(draft)
        return path

    def _as_csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return file.getvalue()

    def _write_parquet(self, path: Path) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise _missing("pyarrow", "to write .parquet; .csv needs nothing") from error
        columns = {name: list(self.column(name)) for name in self.columns}
        parquet.write_table(pyarrow.table(columns), path)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        shown = self.columns[:_MOST_COLUMNS]
        drawn = Drawn(box=None, pad_edge=False, header_style="")
        for name in shown:
            drawn.add_column(name, justify="right", no_wrap=True)
        for row in self.rows[:_MOST_ROWS]:
            drawn.add_row(*(_shown(value) for value in row[: len(shown)]))
        file = io.StringIO()
        Console(file=file, width=160, markup=False, emoji=False, highlight=False).print(drawn)
        lines = list(map(str.rstrip, file.getvalue().rstrip().splitlines()))
        rest = len(self.rows) - _MOST_ROWS, len(self.columns) - len(shown)
        more = [
            f"{n} {what} more" for n, what in zip(rest, ("rows", "columns"), strict=True) if n > 0
        ]
        return "\n".join([*lines, *([", ".join(more)] if more else [])])


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _missing(library: str, what: str) -> MissingExtraError:
    return MissingExtraError(f'{what} needs {library}: pip install "fxprune[search]"')
