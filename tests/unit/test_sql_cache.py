"""Kept tables of a large folder: the same answers, made again where a file has changed, never needed."""

import pytest

from memfloor.record import Store
from memfloor.report import sql_cache
from memfloor.report.sql import run_query_of_file, tables_of

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


def _kept(folder, reads):
    def read():
        reads.append(None)
        found = Store(folder).contents()
        return tables_of(found.runs), list(found.unreadable)

    return sql_cache.kept_tables(folder, read)


def test_tables_are_made_once_and_again_after_a_change(folder, make_run):
    reads = []
    assert [run_query_of_file(_kept(folder, reads).path, COUNT)[1] for _ in range(2)] == [[(2,)], [(2,)]]
    assert len(reads) == 1
    Store(folder).add(make_run(block=2))
    (folder / "other.json").write_text("{}")
    kept = _kept(folder, reads)
    assert run_query_of_file(kept.path, COUNT)[1] == [(3,)]
    assert len(reads) == 2
    again = _kept(folder, reads)
    assert again == kept
    assert [file.path for file in again.unreadable] == [folder / "other.json"]
    assert [path for path in sql_cache.cache_folder().iterdir() if path != kept.path] == []


def test_a_small_folder_and_a_damaged_or_impossible_file_give_none(folder, monkeypatch):
    reads = []
    path = _kept(folder, reads).path
    path.write_bytes(b"no database")
    assert _kept(folder, reads) is None
    assert _kept(folder, reads) == sql_cache.Kept(path, ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / next(folder.iterdir()).name))
    assert _kept(folder, reads) is None
    monkeypatch.setattr(sql_cache, "LARGE_FOLDER", 3)
    assert _kept(folder, reads) is None
