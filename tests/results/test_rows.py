"""RowStore: rows survive a kill, settings and finished runs are guarded, damage is named."""

from __future__ import annotations

import gzip
import json

import pytest

from dycoke_lab.results.rows import PACKED, ROWS, RowStore, read_rows


def stored(folder, *rows, **settings):
    with RowStore(folder, **settings) as store:
        store.append(rows)
        return store.rows()


def test_row_store_appends_and_reads_back(tmp_path):
    with RowStore(tmp_path / "new" / "folder", videos=4) as store:
        assert store.rows() == []
        store.append([{"a": 1}, {"a": "ä"}])
        store.append(row for row in [{"a": None}])
        assert store.rows() == read_rows(store.folder) == [{"a": 1}, {"a": "ä"}, {"a": None}]


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_row_store_repairs_a_half_written_line(tmp_path, cut):
    stored(tmp_path, {"a": 1}, {"a": 22})
    path = tmp_path / ROWS
    path.write_text(path.read_text()[:-cut])
    assert read_rows(tmp_path) == [{"a": 1}]
    assert stored(tmp_path, {"a": 3}) == [{"a": 1}, {"a": 3}]


def test_row_store_survives_a_kill_in_the_first_line(tmp_path):
    stored(tmp_path, {"a": 1})
    (tmp_path / ROWS).write_text('{"a"')
    assert stored(tmp_path) == [] and (tmp_path / ROWS).read_text() == ""


def test_row_store_refuses_other_settings_and_touches_nothing(tmp_path):
    stored(tmp_path, {"a": 1}, videos=4, device="cpu")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"holds a run with videos=4, not 8: choose another folder with --out"
    ):
        RowStore(tmp_path, videos=8, device="cpu")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    stored(tmp_path, videos=4)  # after a refusal, nothing holds the folder


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    with (
        RowStore(tmp_path / "a"),
        RowStore(tmp_path / "b"),
        pytest.raises(BlockingIOError, match=r"/a is in use by another run: wait until it ends, or choose"),
    ):
        RowStore(tmp_path / "a")
    assert stored(tmp_path / "a", {"a": 1}) == [{"a": 1}]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {ROWS, "provenance.json"}


def test_begin_records_each_run_with_its_provenance(tmp_path):
    with RowStore(tmp_path, videos=4) as store:
        assert store.begin(configs=2) == 0
    with RowStore(tmp_path, videos=4) as store:
        assert store.begin(configs=1, commit="known") == 1
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record == store.record and record["videos"] == 4
    assert [run["configs"] for run in record["runs"]] == [2, 1] and record["runs"][1]["commit"] == "known"
    assert set(record["runs"][0]) >= {"command", "commit", "time", "python", "packages", "hardware"}


def packed(folder, *rows):
    with RowStore(folder) as store:
        store.append(rows)
        store.pack()


def test_a_packed_folder_is_read_and_takes_no_new_run(tmp_path):
    for name in ("a", "b"):
        packed(tmp_path / name, {"a": 1}, {"a": 2})
    assert read_rows(tmp_path / "a") == [{"a": 1}, {"a": 2}] and not (tmp_path / "a" / ROWS).exists()
    with pytest.raises(FileExistsError, match="holds a finished run: choose another folder with --out"):
        RowStore(tmp_path / "a", videos=4)
    assert (tmp_path / "a" / PACKED).read_bytes() == (tmp_path / "b" / PACKED).read_bytes()


def test_read_rows_of_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=ROWS):
        read_rows(tmp_path)


@pytest.mark.parametrize("line", ['{"a"', "[1]", "\x00\x00", "", "[" * 100_000], ids=range(5))
def test_damage_that_no_kill_leaves_is_named_and_touches_nothing(tmp_path, line):
    stored(tmp_path, {"a": 1})
    (tmp_path / ROWS).write_text(f'{{"a":1}}\n{line}\n{{"a":3}}\n{{"a"')
    before = (tmp_path / ROWS).read_bytes()
    for use in (RowStore, read_rows):
        with pytest.raises(ValueError, match=r"/rows\.jsonl is damaged in line 2 \(.*delete this line"):
            use(tmp_path)
    assert (tmp_path / ROWS).read_bytes() == before


def test_a_row_of_other_bytes_is_named(tmp_path):
    (tmp_path / ROWS).write_bytes(b'{"a":"\xff"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged in line 1 "):
        read_rows(tmp_path)


def test_damaged_packed_rows_are_named(tmp_path):
    packed(tmp_path, *({"a": number} for number in range(50)))
    whole = (tmp_path / PACKED).read_bytes()
    broken = [whole[:cut] for cut in range(len(whole))]
    broken += [whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :] for place in (0, 20, 60, -5)]
    for data in broken:
        (tmp_path / PACKED).write_bytes(data)
        with pytest.raises(ValueError, match=r"/rows\.jsonl\.gz is damaged \(.*restore it from a copy"):
            read_rows(tmp_path)
    (tmp_path / PACKED).write_bytes(gzip.compress(b'{"a"\n'))
    with pytest.raises(ValueError, match=r"/rows\.jsonl\.gz is damaged in line 1 "):
        read_rows(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": "\\ud8'])
def test_a_damaged_record_is_named_and_touches_nothing(tmp_path, text):
    stored(tmp_path, {"a": 1})
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"/provenance\.json is damaged \("):
        RowStore(tmp_path)
    assert (tmp_path / "provenance.json").read_text() == text
