"""Rows of a long run: appended as they are made, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dycoke_lab.results.provenance import provenance, replace_text

Row = dict[str, Any]
ROWS, PACKED, ABOUT = "rows.jsonl", "rows.jsonl.gz", "provenance.json"


class RowStore:
    """Write rows of JSON into a folder, one a line, beside a provenance.json that says how they were made."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Open the folder, or create it. settings: what all its rows have in common, as videos=512.

        Raises FileExistsError for a folder whose run is finished, ValueError for one of other settings.
        """
        self.folder, self.path = Path(folder), Path(folder) / ROWS
        if (self.folder / PACKED).exists():
            raise FileExistsError(
                f"{self.folder} holds a finished run: choose another folder with --out, or delete this one"
            )
        about = self.folder / ABOUT
        known = json.loads(about.read_text()) if about.exists() else {}
        for name, value in settings.items():
            if known.get(name, value) != value:
                raise ValueError(
                    f"{self.folder} holds a run with {name}={known[name]!r}, not {value!r}: "
                    "choose another folder with --out, or delete this one"
                )
        self.record: Row = {**known, **settings, "runs": known.get("runs", [])}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_record()
        if self.path.exists() and not self.path.read_text().endswith("\n"):  # killed as it wrote a line
            self._write(self.rows())

    def rows(self) -> list[Row]:
        """Return all rows written so far."""
        return _parse(self.path.read_text()) if self.path.exists() else []

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end."""
        with self.path.open("a") as file:
            file.writelines(_line(row) for row in rows)

    def keep_only(self, predicate: Callable[[Row], bool]) -> None:
        """Delete the rows for which the predicate is false."""
        rows = self.rows()
        kept = [row for row in rows if predicate(row)]
        if len(kept) < len(rows):
            self._write(kept)

    def begin(self, **about: Any) -> int:
        """Note that a run begins, with its provenance and what else is known about it; return the
        run's number."""
        self.record["runs"].append(provenance() | about)
        self._write_record()
        return len(self.record["runs"]) - 1

    def pack(self) -> None:
        """Compress the rows of a finished run."""
        packed = gzip.compress(self.path.read_bytes(), mtime=1)  # the same rows always give the same file
        (self.folder / PACKED).write_bytes(packed)
        self.path.unlink()

    def _write(self, rows: Iterable[Row]) -> None:
        replace_text(self.path, "".join(map(_line, rows)))

    def _write_record(self) -> None:
        replace_text(self.folder / ABOUT, json.dumps(self.record, indent=1) + "\n")


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a folder, finished or not. Raises FileNotFoundError if it holds none."""
    if (folder / PACKED).exists():
        return _parse(gzip.decompress((folder / PACKED).read_bytes()).decode())
    return _parse((folder / ROWS).read_text())


def _line(row: Row) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def _parse(text: str) -> list[Row]:
    """Parse whole lines; the last may lack its end, if the process was killed as it wrote."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
