"""What one section of the report found, written down row by row.

A row is on disk as soon as it was measured: a section that is cut short, or takes the process with it, keeps
what it had.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = str | int | float | None
"""None: not measured."""


@dataclass(slots=True)
class Table:
    """Columns, and a value for each in every row."""

    title: str
    columns: list[str]
    rows: list[list[Value]] = field(default_factory=list)


class Findings:
    """Tables and notes of one section."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.tables: list[Table] = []
        self.notes: list[str] = []

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table; rows are added to the one that was begun last."""
        self.tables.append(Table(title, list(columns)))
        self._write()
        return self.tables[-1]

    def row(self, *values: Value) -> None:
        """Add a row to the latest table."""
        table = self.tables[-1]
        assert len(values) == len(table.columns), f"{len(values)} values for {table.columns}"
        table.rows.append(list(values))
        self._write()
        shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        print(f"{table.title}: " + ", ".join(shown), flush=True)

    def note(self, text: str) -> None:
        """Something that was left out, or has to be known to read the tables."""
        self.notes.append(text)
        self._write()
        print(text, flush=True)

    def value(self, title: str, name: str) -> float:
        """What a table of names and values says.

        Raises:
            KeyError: it does not.
        """
        return value_in([{"title": t.title, "rows": t.rows} for t in self.tables], title, name)

    def _write(self) -> None:
        tables = [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in self.tables]
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps({"tables": tables, "notes": self.notes}))
        os.replace(unfinished, self._file)


def value_in(tables: Sequence[dict[str, Any]], title: str, name: str) -> float:
    """The value beside a name, in a table whose rows begin with names.

    Raises:
        KeyError: there is none.
    """
    for table in tables:
        for row in table["rows"]:
            if table["title"] == title and row[0] == name and row[1] is not None:
                return float(row[1])
    raise KeyError(f"{title}: {name}")
