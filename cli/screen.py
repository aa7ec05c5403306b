"""What a command shows: results on standard output (text, or one JSON object per line), everything else on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

WIDE = 200  # columns of a table that goes into a file or a pipe


class Screen:
    """Where a command prints.

    Args:
        as_json: standard output gets JSON only, one object per line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._error = Console(stderr=True, highlight=False)

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """A result: `data` for scripts, `text` for people."""
        sys.stdout.write((json.dumps(data, ensure_ascii=False) if self.as_json else text) + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """A line for people only."""
        if not self.as_json:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """A remark, on standard error."""
        self._error.print(text, markup=False, soft_wrap=True)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[str]]) -> None:
        """Rows of a list: `rows` as JSON lines, `columns` (title -> cells) as a table."""
        if self.as_json:
            for row in rows:
                self.result(row, "")
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in columns:
            table.add_column(title, overflow="fold")
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        out = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
        out.print(table)

    def bytes_bar(self) -> Progress:
        """A bar for bytes, with speed and time left."""
        return self._bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))

    def count_bar(self) -> Progress:
        """A bar for things that are counted."""
        return self._bar(MofNCompleteColumn(), TextColumn("{task.fields[more]}"))

    def _bar(self, *columns: ProgressColumn) -> Progress:
        shown = (TextColumn("{task.description}"), BarColumn(), *columns)
        # a pipe or a file gets no bar: thousands of lines that nobody reads
        return Progress(*shown, console=self._error, transient=True, disable=not sys.stderr.isatty())
