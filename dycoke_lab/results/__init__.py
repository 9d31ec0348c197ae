"""Output folders, the rows in them, and where each comes from. Imports nothing else of this package."""

from dycoke_lab.results.folders import (
    BENCH,
    CONSTRUCTED,
    DATA,
    DIAGNOSES,
    EVIDENCE,
    RESULTS,
    ROOT,
    SWEEP,
    keep,
    new_folder,
    open_folder,
    save,
)
from dycoke_lab.results.rows import RowStore, read_rows

__all__ = [
    "BENCH",
    "CONSTRUCTED",
    "DATA",
    "DIAGNOSES",
    "EVIDENCE",
    "RESULTS",
    "ROOT",
    "SWEEP",
    "RowStore",
    "keep",
    "new_folder",
    "open_folder",
    "read_rows",
    "save",
]
