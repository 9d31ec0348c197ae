"""RowStore: rows survive a kill, settings and finished runs are guarded."""

from __future__ import annotations

import json

import pytest

from dycoke_lab.results.rows import PACKED, ROWS, RowStore, read_rows


def test_row_store_appends_and_reads_back(tmp_path):
    store = RowStore(tmp_path / "new" / "folder", videos=4)
    assert store.rows() == []
    store.append([{"a": 1}, {"a": "ä"}])
    store.append([{"a": None}])
    assert store.rows() == read_rows(tmp_path / "new" / "folder") == [{"a": 1}, {"a": "ä"}, {"a": None}]


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_row_store_repairs_a_half_written_line(tmp_path, cut):
    store = RowStore(tmp_path)
    store.append([{"a": 1}, {"a": 22}])
    path = tmp_path / ROWS
    path.write_text(path.read_text()[:-cut])
    assert read_rows(tmp_path) == [{"a": 1}]
    store = RowStore(tmp_path)
    store.append([{"a": 3}])
    assert store.rows() == [{"a": 1}, {"a": 3}]


def test_row_store_survives_a_kill_in_the_first_line(tmp_path):
    RowStore(tmp_path).append([{"a": 1}])
    (tmp_path / ROWS).write_text('{"a"')
    assert RowStore(tmp_path).rows() == []


def test_keep_only_deletes_the_other_rows(tmp_path):
    store = RowStore(tmp_path)
    store.append({"a": number} for number in range(5))
    store.keep_only(lambda row: row["a"] % 2)
    assert RowStore(tmp_path).rows() == [{"a": 1}, {"a": 3}]


def test_row_store_refuses_other_settings_and_touches_nothing(tmp_path):
    store = RowStore(tmp_path, videos=4, device="cpu")
    store.append([{"a": 1}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"holds a run with videos=4, not 8: choose another folder with --out"
    ):
        RowStore(tmp_path, videos=8, device="cpu")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_begin_records_each_run_with_its_provenance(tmp_path):
    assert RowStore(tmp_path, videos=4).begin(configs=2) == 0
    store = RowStore(tmp_path, videos=4)
    assert store.begin(configs=1, commit="known") == 1
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record == store.record and record["videos"] == 4
    assert [run["configs"] for run in record["runs"]] == [2, 1] and record["runs"][1]["commit"] == "known"
    assert set(record["runs"][0]) >= {"command", "commit", "time", "python", "packages", "hardware"}


def test_a_packed_folder_is_read_and_takes_no_new_run(tmp_path):
    store = RowStore(tmp_path / "a", videos=4)
    store.append([{"a": 1}, {"a": 2}])
    store.pack()
    assert read_rows(tmp_path / "a") == [{"a": 1}, {"a": 2}] and not (tmp_path / "a" / ROWS).exists()
    with pytest.raises(FileExistsError, match="holds a finished run: choose another folder with --out"):
        RowStore(tmp_path / "a", videos=4)
    again = RowStore(tmp_path / "b")
    again.append([{"a": 1}, {"a": 2}])
    again.pack()
    assert (tmp_path / "a" / PACKED).read_bytes() == (tmp_path / "b" / PACKED).read_bytes()


def test_read_rows_of_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=ROWS):
        read_rows(tmp_path)
