"""The index of a folder: what it says is what the records say, whatever happened to it or to them."""

import os

import pytest

from memfloor.cache import cache_folder
from memfloor.record import Failure, Skip, Store, digest_of, files_below, index, read_digests


@pytest.fixture
def store(tmp_path, monkeypatch, make_run):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "records").mkdir()
    store = Store(tmp_path / "records")
    for block in range(3):
        store.add(make_run(block=block))
    return store


@pytest.fixture
def reads(monkeypatch):
    """Return the names of the files that are read."""
    found, read = [], index.read_file

    def remember(path):
        found.append(path.name)
        return read(path)

    monkeypatch.setattr(index, "read_file", remember)
    return found


def _said(store):
    digests, unreadable = read_digests(store.folder)
    contents = store.contents()
    assert digests == [digest_of(run) for run in contents.runs]
    assert unreadable == contents.unreadable
    return digests


def _lines():
    [path] = cache_folder("index").iterdir()
    return path


def _without(run, kind, **fields):
    common = {name: getattr(run, name) for name in ("session_id", "taken_at", "cell", "block")}
    return kind(record_id=kind.__name__[0].lower().replace("s", "a") * 32, **common, **fields)


def test_what_a_store_wrote_is_not_read_again(store, make_run, reads):
    store.add(_without(make_run(), Skip, reason="no device"))
    store.add_once(_without(make_run(), Failure, cause="died", last_words="killed"))
    assert [digest.reason for digest in _said(store) if digest.reason] == ["no device", "died: killed"]
    assert reads == []


def test_a_file_of_the_same_size_changed_at_once_is_read(store, make_run, reads):
    run = make_run(block=7)
    path = store.add(run)
    text = path.read_text()
    assert text.count('"block": 7') == 1
    path.write_text(text.replace('"block": 7', '"block": 8'))
    assert 8 in [digest.block for digest in _said(store)]
    assert reads == [path.name]
    # It may change again within the time that its clock does not tell, so it is not noted yet.
    path.write_text(text.replace('"block": 7', '"block": 9'))
    assert 9 in [digest.block for digest in _said(store)]


def test_a_replaced_a_deleted_and_a_broken_file_are_seen(store, make_run):
    first, second, third = (store.folder / name for name in sorted(path.name for path in store.files()))
    first.unlink()
    second.write_bytes(third.read_bytes())
    third.write_text(third.read_text()[:-20])
    assert len(_said(store)) == 1
    store.add(make_run(block=1))
    assert len(_said(store)) == 2


def test_a_record_that_another_writer_replaces_is_never_told_by_the_first_ones_line(store, make_run):
    run = make_run(block=4)
    path = store.add(run)
    other = Store(store.folder)
    assert other.add(run.model_copy(update={"block": 4, "session_id": "e" * 32})) == path
    assert "e" * 32 in [digest.session_id for digest in _said(store)]


def test_files_that_were_copied_here_are_read_once(store, tmp_path, reads):
    copied = Store(tmp_path / "copied")
    copied.folder.mkdir()
    for path in store.files():
        (copied.folder / path.name).write_bytes(path.read_bytes())
        os.utime(copied.folder / path.name, (1, 1))
    assert [len(_said(copied)) for _ in range(2)] == [3, 3]
    assert len(reads) == 3


def test_torn_lines_cost_a_reading_and_nothing_else(store, reads):
    whole = _lines().read_bytes()
    for cut in range(len(whole), 0, -97):
        _lines().write_bytes(whole[:cut])
        assert len(_said(store)) == 3
    _lines().write_bytes(whole[:-9])
    reads.clear()
    assert len(_said(store)) == 3
    assert len(reads) == 1
    # The line that was noted now is not glued to the torn one.
    assert len(_said(store)) == 3
    assert len(reads) == 1


def test_lines_of_files_that_have_gone_are_forgotten(store, monkeypatch, reads):
    monkeypatch.setattr(index, "MOST_STALE", 1)
    for path in list(store.files())[1:]:
        path.unlink()
    assert len(_said(store)) == 1
    assert len(_lines().read_text().splitlines()) == 1
    assert len(_said(store)) == 1
    assert reads == []


def test_another_program_reads_for_itself(store, monkeypatch, reads):
    monkeypatch.setattr(index, "RULES", "other")
    assert len(_said(store)) == 3
    assert len(reads) == 3
    assert _lines().name.endswith("-other.jsonl")


def test_a_cache_that_cannot_be_written_changes_no_answer(store, make_run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(store.files())))
    store.add(make_run(block=5))
    assert len(_said(store)) == 4


def test_links_and_folders_are_told_as_the_store_tells_them(store):
    (store.folder / "gone.json").symlink_to("nowhere")
    (store.folder / "folder.json").mkdir()
    (store.folder / "below").mkdir()
    next(store.files()).rename(store.folder / "below" / "moved.json")
    (store.folder / ".hidden.json").write_text("{}")
    assert len(_said(store)) == 3
    assert {path for path, _ in files_below(str(store.folder))} == {str(path) for path in store.files()}
