import json
from pathlib import Path
from statistics import median

import pytest

from memfloor.errors import UsageError
from memfloor.record import CeilingReading, Cell, Protocol, Run, Step, Store, UnreadableFile, read_record
from memfloor.record import store as store_module
from memfloor.spec import ModelSpec, Workload


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "records")
    store.open_for_writing()
    return store


def test_a_record_comes_back_as_it_was_written(store, make_run, make_failure, make_skip):
    written = [make_run(), make_failure(), make_skip()]
    for record in written:
        store.add(record)
    read, unreadable = store.read()
    assert read == written
    assert unreadable == []


def test_records_come_oldest_first_and_from_folders_below(store, make_run):
    Store(store.folder / "below").folder.mkdir()
    late, early = make_run(block=2), make_run(block=1)
    store.add(late)
    Store(store.folder / "below").add(early)
    assert [record.block for record in store.read()[0]] == [1, 2]


def test_a_run_derives_its_figures_from_raw_facts(make_run):
    run = make_run(step_seconds=(0.03, 0.01, 0.02), ceiling=5e9)
    assert run.step_seconds == (0.03, 0.01, 0.02)
    assert run.p50_seconds == 0.02
    assert run.ceiling_bytes_per_second == pytest.approx(5e9)


def test_a_fraction_is_formed_beside_the_ceilings_on_both_sides_of_each_part(make_run):
    run = make_run()
    phases = ["warmup", *["timed"] * 3, "settle", *["timed"] * 3, "settle", *["timed"] * 3]
    seconds = [9.0, *[1.0] * 3, 7.0, *[2.0] * 3, 7.0, *[4.0] * 3]
    places, rates = [1, 4, 8, 12], [(100.0, 100.0), (92.0, 100.0), (100.0, 100.0), (95.0, 95.0)]
    steps = tuple(Step(phase=phase, host_seconds=time) for phase, time in zip(phases, seconds, strict=True))
    ceilings = tuple(
        CeilingReading(after_steps=place, pass_bytes=100, pass_seconds=[100 / rate for rate in pair], method="test")
        for place, pair in zip(places, rates, strict=True)
    )
    parts = run.model_copy(update={"steps": steps, "ceilings": ceilings})
    assert parts.fraction_of_ceiling(80) == pytest.approx(median([80 / 1 / 100, 80 / 2 / 100, 80 / 4 / 97.5]))


def test_parts_while_bandwidth_changed_are_left_out_unless_all_are(make_run):
    def reading(place, rate):
        return CeilingReading(after_steps=place, pass_bytes=100, pass_seconds=(100 / rate,), method="test")

    run = make_run(step_seconds=(1.0, 2.0, 3.0))
    changing = (reading(1, 50), reading(2, 100), reading(3, 100), reading(4, 50))
    assert run.model_copy(update={"ceilings": changing}).fraction_of_ceiling(80) == pytest.approx(80 / 2 / 100)
    always = (reading(1, 50), reading(2, 100), reading(3, 50), reading(4, 100))
    assert run.model_copy(update={"ceilings": always}).fraction_of_ceiling(80) == pytest.approx(80 / 2 / 75)


def test_a_protocol_reads_the_ceiling_beside_each_step_on_a_cpu():
    assert [Protocol.on(device).parts for device in ("cuda", "cpu")] == [2, 30]
    assert [Protocol.on(device).ceiling_passes for device in ("cuda", "cpu")] == [8, 2]
    assert Protocol.on("cpu", timed_steps=4).part_steps == (1, 1, 1, 1)
    assert sum(Protocol(timed_steps=31, parts=6).part_steps) == 31
    with pytest.raises(ValueError, match="2 timed steps cannot be cut into 3 parts"):
        Protocol(timed_steps=2, parts=3)


def test_the_devices_clock_comes_before_the_hosts(make_run):
    run = make_run()
    timed = Step(phase="timed", host_seconds=2.0, device_seconds=1.0)
    assert run.model_copy(update={"steps": (timed,)}).step_seconds == (1.0,)


def _damage(store, make_run, change):
    path = store.add(make_run())
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.update(schema_version=2), "schema version 2; this memfloor reads version 1"),
        (lambda raw: raw.update(surprise=1), "surprise"),
        (lambda raw: raw.pop("steps"), "steps"),
        (lambda raw: raw["steps"][1].update(host_seconds=-1), "host_seconds"),
        (lambda raw: raw["cell"]["workload"].update(weights="int3"), "unknown weight format 'int3'"),
        (lambda raw: raw.update(kind="walk"), "kind"),
        (lambda raw: raw.pop("schema_version"), "no schema_version"),
    ],
)
def test_a_file_that_is_no_valid_record_is_named_and_left_out(store, make_run, change, reason):
    path = _damage(store, make_run, change)
    records, unreadable = store.read()
    assert records == []
    assert unreadable[0].path == path
    assert reason in unreadable[0].reason


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"3"])
def test_a_truncated_or_foreign_file_is_named_and_left_out(store, make_run, content):
    store.add(make_run())
    (store.folder / "foreign.json").write_bytes(content)
    records, unreadable = store.read()
    assert len(records) == 1
    assert [file.path.name for file in unreadable] == ["foreign.json"]


def test_other_files_and_drafts_are_none_of_our_business(store, make_run):
    store.add(make_run())
    (store.folder / "notes.txt").write_text("hello")
    (store.folder / ".draft-1.json").write_text("{")
    assert len(store.read()[0]) == 1
    assert store.read()[1] == []


def test_every_truncation_of_a_record_is_refused(store, make_run):
    path = store.add(make_run())
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        records, unreadable = store.read()
        assert (len(records), len(unreadable)) == (0, 1)


def test_a_full_disk_leaves_no_draft_behind(store, make_run, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        store.add(make_run())
    assert list(store.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        Store(tmp_path / "file" / "below").open_for_writing()


def test_reading_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a folder with records"):
        Store(tmp_path / "nowhere").read()


def test_the_key_tells_any_two_cells_apart(tiny):
    base = {"spec": tiny, "workload": Workload.of(512), "runtime": "hf-eager", "device": "cpu"}
    cells = [
        Cell(**base),
        Cell(**{**base, "workload": Workload.of(513)}),
        Cell(**{**base, "workload": Workload.of(512, batch=2)}),
        Cell(**{**base, "workload": Workload.of(512, weights="int8")}),
        Cell(**{**base, "workload": Workload.of(512, weights="int8", head="int8")}),
        Cell(**{**base, "workload": Workload.of(512, kv="int8")}),
        Cell(**{**base, "runtime": "other"}),
        Cell(**{**base, "options": {"launch": "graph"}}),
        Cell(**{**base, "device": "cuda"}),
        Cell(**{**base, "threads": 1}),
        Cell(**{**base, "prefill": True}),
        Cell(**{**base, "weights_from": "/models/x"}),
        Cell(**{**base, "spec": ModelSpec(**{**tiny.model_dump(), "vocab_size": 101})}),
    ]
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_record_cannot_be_changed(make_run):
    with pytest.raises(ValueError, match="frozen"):
        make_run().block = 3


def test_not_a_number_is_no_step_time():
    with pytest.raises(ValueError, match="finite"):
        Step(phase="timed", host_seconds=float("nan"))


def test_a_record_id_is_checked(make_run):
    raw = make_run().model_dump() | {"record_id": "../../etc/passwd"}
    with pytest.raises(ValueError, match="record_id"):
        Run(**raw)


def test_what_calls_of_several_steps_say_is_per_decode_step(make_run):
    single = make_run((0.08, 0.088, 0.096))
    raw = single.model_copy(
        update={"steps": tuple(step.model_copy(update={"issue_seconds": 0.004}) for step in single.steps)}
    )
    together = raw.model_copy(update={"steps_per_call": 8})
    assert raw.steps_per_call == 1
    assert together.step_seconds == pytest.approx((0.01, 0.011, 0.012))
    assert together.p50_seconds == pytest.approx(raw.p50_seconds / 8)
    assert together.issue_seconds == pytest.approx(0.0005)
    assert together.fraction_of_ceiling(1000) == pytest.approx(8 * raw.fraction_of_ceiling(1000))
    assert [step.seconds for step in together.steps] == [step.seconds for step in raw.steps]


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (("block",), 10**30, "block"),
        (("steps_per_call",), 10**30, "steps_per_call"),
        (("cell", "workload", "batch"), 10**30, "batch must be 65536 or less"),
        (("cell", "spec", "num_hidden_layers"), 10**15, "num_hidden_layers"),
        (("cell", "spec", "num_sliding_layers"), 10**15, "sliding layers are more than all"),
        (("ceilings", 0, "pass_seconds", 0), -1.0, "pass_seconds"),
        (("taken_at",), "2026-02-30T00:00:00+00:00", "taken_at"),
    ],
)
def test_a_number_that_no_table_can_hold_makes_no_record(make_run, where, value, reason):
    raw = json.loads(make_run().model_dump_json())
    place = raw
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    found = read_record(json.dumps(raw).encode(), Path("spoiled.json"))
    assert isinstance(found, UnreadableFile)
    assert reason in found.reason


def test_a_changed_copy_of_a_run_derives_its_figures_anew(make_run):
    run = make_run()
    before = run.p50_seconds
    doubled = tuple(step.model_copy(update={"host_seconds": 2 * step.host_seconds}) for step in run.steps)
    changed = run.model_copy(update={"steps": doubled})
    assert changed.p50_seconds == 2 * before
    assert run.p50_seconds == before
    assert run.model_copy(update={"block": 9}).p50_seconds == before
    # Nor are they a part of it.
    assert run == make_run().model_copy(update={"record_id": run.record_id})
    assert "p50_seconds" not in run.model_dump()
