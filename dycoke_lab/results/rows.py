"""Rows of a long run: appended as they are made, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dycoke_lab.results.files import damaged, held, read_json, replace_text, replacing
from dycoke_lab.results.provenance import provenance

Row = dict[str, Any]
ROWS, PACKED, ABOUT = "rows.jsonl", "rows.jsonl.gz", "provenance.json"


class RowStore:
    """Write rows of JSON into a folder, one a line, beside a provenance.json that says how they were made.

    A store holds its folder until it is closed, as by `with RowStore(folder) as store: ...`.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Open the folder, or create it. settings: what all its rows have in common, as videos=512.

        Raises FileExistsError for a folder whose run is finished, ValueError for one of other settings
        and for a damaged file, BlockingIOError while another run uses the folder, OSError for a folder
        that cannot be written.
        """
        self.folder, self.path = Path(folder), Path(folder) / ROWS
        with ExitStack() as stack:
            stack.enter_context(held(self.folder))
            if (self.folder / PACKED).exists():
                raise FileExistsError(
                    f"{self.folder} holds a finished run: choose another folder with --out, or delete this "
                    "one"
                )
            about = self.folder / ABOUT
            known = read_json(about) if about.exists() else {}
            for name, value in settings.items():
                if known.get(name, value) != value:
                    raise ValueError(
                        f"{self.folder} holds a run with {name}={known[name]!r}, not {value!r}: "
                        "choose another folder with --out, or delete this one"
                    )
            self.record: Row = {**known, **settings, "runs": known.get("runs", [])}
            rows = self.rows()
            self._write_record()
            if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):  # killed in a line
                replace_text(self.path, "".join(map(_line, rows)))
            self._holding = stack.pop_all()

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._holding.close()

    def rows(self) -> list[Row]:
        """Return all rows written so far."""
        return parse_rows(self.path, self.path.read_bytes()) if self.path.exists() else []

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end. They are on the disk when this returns."""
        with self.path.open("a") as file:
            file.write("".join(map(_line, rows)))
            file.flush()
            os.fsync(file.fileno())

    def begin(self, **about: Any) -> int:
        """Note that a run begins, with its provenance and what else is known about it; return the
        run's number."""
        self.record["runs"].append(provenance() | about)
        self._write_record()
        return len(self.record["runs"]) - 1

    def pack(self) -> None:
        """Compress the rows of a finished run."""
        packed = gzip.compress(self.path.read_bytes(), mtime=1)  # the same rows always give the same file
        with replacing(self.folder / PACKED) as new:
            new.write_bytes(packed)
        self.path.unlink()

    def _write_record(self) -> None:
        replace_text(self.folder / ABOUT, json.dumps(self.record, indent=1) + "\n")


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a folder, finished or not. Raises FileNotFoundError if it holds none, ValueError
    for a damaged file."""
    packed = folder / PACKED
    if not packed.exists():
        return parse_rows(folder / ROWS, (folder / ROWS).read_bytes())
    data = packed.read_bytes()
    if not data:
        raise damaged(packed, "it is empty")
    try:
        return parse_rows(packed, gzip.decompress(data))
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(packed, error) from error


def _line(row: Row) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def parse_rows(path: Path, data: bytes) -> list[Row]:
    """Parse whole lines; the last may lack its end, if the process was killed as it wrote."""
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _damaged_line(path, number, error) from error
        if not isinstance(row, dict):
            raise _damaged_line(path, number, "no object")
        rows.append(row)
    return rows


def _damaged_line(path: Path, number: int, why: object) -> ValueError:
    return ValueError(
        f"{path} is damaged in line {number} ({why}): restore it from a copy, or delete this line, which the "
        "same command then makes again"
    )
