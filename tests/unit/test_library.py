import json
import os

import pytest

from memfloor.errors import UsageError
from memfloor.record import Store
from memfloor.serve.library import Library
from memfloor.serve.selection import Selection, choices_in


@pytest.fixture
def served(tmp_path, make_run, make_failure, make_cell):
    """Return a folder with one run at its top, and two runs of another device and a failure further below."""
    root = tmp_path / "served"
    for folder, records in {
        root: [make_run()],
        root / "day" / "grid": [
            *(make_run(device_name="Other CPU", block=block, cell=make_cell(64, "engine")) for block in (0, 1)),
            make_failure(),
        ],
    }.items():
        store = Store(folder)
        store.open_for_writing()
        for record in records:
            store.add(record)
    return root


def test_every_folder_that_holds_records_is_one(served):
    snapshot = Library(served).snapshot()
    assert {name: len(folder.entries) for name, folder in snapshot.folders.items()} == {".": 1, "day/grid": 3}
    assert len(snapshot.entries) == 4
    assert len(snapshot.below(".").every) == 4
    assert len(snapshot.below("day").every) == 3
    assert snapshot.below("da").every == []


def test_what_was_asked_for_must_all_hold(served):
    snapshot = Library(served).snapshot()
    every = choices_in(snapshot)
    assert (every["device"], every["context"]) == (["Other CPU", "Some CPU", "no device"], ["64", "512"])
    assert every["folder"] == [".", "day", "day/grid"]
    assert len(Selection(folder="day").entries(snapshot)) == 3
    assert len(Selection(device="Other CPU", kind="run", context="64").entries(snapshot)) == 2
    # The failure names no device, and the runs of its session two.
    assert [entry.record.kind for entry in Selection(device="no device").entries(snapshot)] == ["failure"]
    with pytest.raises(UsageError, match="unknown model 'huge'; allowed: tiny"):
        Selection(model="huge").check(every)


def test_a_record_without_a_device_takes_the_one_of_its_session(served, make_failure):
    failure = make_failure().model_copy(update={"session_id": "f" * 32})
    Store(served).add(failure)
    devices = Library(served).snapshot().devices
    assert failure.record_id not in devices
    run = next(entry.record for entry in Library(served).snapshot().entries.values() if entry.record.kind == "run")
    Store(served).add(run.model_copy(update={"record_id": "1" * 32, "session_id": "f" * 32}))
    assert Library(served).snapshot().devices[failure.record_id] == run.environment.device.name


def test_only_what_is_new_or_changed_is_read(served, make_run, monkeypatch):
    from memfloor.serve import library as module

    read = []
    monkeypatch.setattr(module, "read_file", lambda path, take=module.read_file: read.append(path) or take(path))
    library = Library(served)
    first = library.snapshot()
    assert len(read) == 4
    assert library.snapshot() is first
    added = Store(served / "later")
    added.open_for_writing()
    path = added.add(make_run())
    second = library.snapshot()
    assert read[4:] == [path]
    assert set(second.folders) == {".", "day/grid", "later"}
    assert second.folders["day/grid"] is first.folders["day/grid"]
    path.unlink()
    assert set(library.snapshot().folders) == {".", "day/grid"}
    assert len(read) == 5


def test_a_link_that_leads_out_is_never_read(served, tmp_path, make_run):
    outside = Store(tmp_path / "outside")
    outside.open_for_writing()
    record = make_run()
    secret = outside.add(record)
    (served / "link.json").symlink_to(secret)
    (served / "folder").symlink_to(tmp_path / "outside")
    (served / "nowhere.json").symlink_to(tmp_path / "none")
    (served / "loop.json").symlink_to(served / "loop.json")
    snapshot = Library(served).snapshot()
    assert record.record_id not in snapshot.entries
    assert snapshot.problems["link.json"] == "a link that leads out of the served folder"
    assert {"nowhere.json", "loop.json"} < set(snapshot.problems)
    assert len(snapshot.entries) == 4


def test_a_record_that_becomes_a_link_out_is_not_given(served, tmp_path):
    snapshot = Library(served).snapshot()
    entry = snapshot.folders["."].entries[0]
    assert json.loads(snapshot.read_bytes(entry))["record_id"] == entry.record.record_id
    (tmp_path / "secret").write_text("{}")
    entry.path.unlink()
    with pytest.raises(UsageError, match="cannot be read any more"):
        snapshot.read_bytes(entry)
    entry.path.symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="leads out"):
        snapshot.read_bytes(entry)


def test_what_is_damaged_is_named_and_breaks_nothing(served):
    whole = next(served.glob("*run000*.json"))
    record = json.loads(whole.read_text())
    (served / "cut.json").write_bytes(whole.read_bytes()[:100])
    (served / "deep.json").write_text("[" * 100_000)
    (served / "untimed.json").write_text(json.dumps({**record, "record_id": "2" * 32, "steps": record["steps"][:1]}))
    (served / "surrogate.json").write_text(json.dumps({**record, "record_id": "3" * 32, "taken_at": "\ud800"}))
    (served / "copy.json").write_bytes(whole.read_bytes())
    (served / "folder.json").mkdir()
    os.mkfifo(served / "pipe.json")
    (served / os.fsdecode(b"odd-\xff.json")).write_text("{}")
    snapshot = Library(served).snapshot()
    assert len(snapshot.entries) == 4
    expected = {
        "cut.json": "not readable as JSON",
        "deep.json": "not readable as JSON",
        "untimed.json": "no timed step lies between two readings",
        "surrogate.json": "not readable as JSON",
        "folder.json": "not a plain file",
        "pipe.json": "not a plain file",
        "odd-\\xff.json": "no schema_version",
    }
    for name, words in expected.items():
        assert words in snapshot.problems.pop(name)
    [(name, reason)] = snapshot.problems.items()
    assert {name, reason.rpartition(" ")[2]} == {"copy.json", whole.name}
    assert reason.startswith("holds the same record as")


def test_the_cells_of_a_folder_are_those_of_the_report(served, make_run):
    library = Library(served)
    [(cell_id, summary)] = library.snapshot().folders["day/grid"].cells.items()
    assert (summary.cell.runtime, len(summary.runs)) == ("engine", 2)
    Store(served / "day" / "grid").add(make_run(device_name="Other CPU", block=2, cell=summary.cell))
    assert len(library.snapshot().folders["day/grid"].cells[cell_id].runs) == 3
