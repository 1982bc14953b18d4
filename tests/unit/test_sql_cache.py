"""Kept tables of a large folder: the same answers, made again where a file has changed, never needed."""

import os

import pytest

from memfloor.cache import cache_folder
from memfloor.record import Store
from memfloor.report import sql_cache
from memfloor.report.folder_tables import tables_in
from memfloor.report.sql import run_query_of_files

COUNT = "SELECT count(*) FROM runs"


@pytest.fixture
def folder(tmp_path, monkeypatch, make_run):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sql_cache, "LARGE_FOLDER", 2)
    store = tmp_path / "records"
    store.mkdir()
    for block in range(2):
        Store(store).add(make_run(block=block))
    return store


def _kept(folder, reads, *names):
    def read(missing):
        reads.append(list(missing))
        return tables_in(folder, missing)

    return sql_cache.kept_tables(folder, names or ["runs"], read)


def _write_old(path, text):
    path.write_text(text)
    os.utime(path, (1, 1))


def test_tables_are_made_once_and_again_after_a_change(folder, make_run):
    reads = []
    assert [run_query_of_files(_kept(folder, reads).paths, COUNT)[1] for _ in range(2)] == [[(2,)], [(2,)]]
    assert len(reads) == 1
    Store(folder).add(make_run(block=2))
    _write_old(folder / "other.json", "{}")
    kept = _kept(folder, reads)
    assert run_query_of_files(kept.paths, COUNT)[1] == [(3,)]
    assert len(reads) == 2
    again = _kept(folder, reads)
    assert again == kept
    assert [file.path for file in again.unreadable] == [folder / "other.json"]
    assert [*cache_folder("tables").iterdir()] == [*kept.paths.values()]


def test_only_tables_that_are_missing_are_made(folder):
    reads = []
    _kept(folder, reads)
    kept = _kept(folder, reads, "runs", "steps")
    assert reads == [["runs"], ["steps"]]
    query = "SELECT count(*) FROM runs JOIN steps USING (record_id)"
    assert run_query_of_files(kept.paths, query)[1] == run_query_of_files(kept.paths, "SELECT count(*) FROM steps")[1]


def test_a_folder_that_changed_a_moment_ago_is_not_kept(folder):
    (folder / "other.json").write_text("{}")
    assert _kept(folder, []) is None


def test_a_small_folder_and_a_damaged_or_impossible_file_give_none(folder, monkeypatch):
    reads = []
    [path] = _kept(folder, reads).paths.values()
    path.write_bytes(b"no database")
    assert _kept(folder, reads) is None
    assert _kept(folder, reads) == sql_cache.Kept({"runs": path}, ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / next(folder.iterdir()).name))
    assert _kept(folder, reads) is None
    monkeypatch.setattr(sql_cache, "LARGE_FOLDER", 3)
    assert _kept(folder, reads) is None
