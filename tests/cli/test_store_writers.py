"""A store and its index under eight writers at once that are killed at random lose, double and halve no record."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from memfloor.record import Run, Store, digest_of, read_digests

WRITERS = Path(__file__).parent / "children" / "store_writers.py"
SHARED = 60


def test_eight_writers_killed_at_random_lose_double_and_halve_no_record(fake_records, tmp_path):
    folder, acks = tmp_path / "records", tmp_path / "acks"
    folder.mkdir()
    template = next(record for record in Store(fake_records).read()[0] if isinstance(record, Run))
    # Long enough that a kill often falls into its writing.
    long = template.model_copy(update={"steps": template.steps * 200})
    command = [sys.executable, str(WRITERS), str(folder), str(acks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        writers.stdin.write(long.model_dump_json())
        writers.stdin.close()
        seen, reads = set(), 0
        while writers.poll() is None:
            found = Store(folder).contents()
            assert found.unreadable == []
            names = [record.record_id for record in found.every]
            assert len(names) == len(set(names))
            assert seen <= set(names), "a record that was there is gone"
            seen, reads = set(names), reads + 1
            digests, unreadable = read_digests(folder)
            told = [digest.record_id for digest in digests]
            assert unreadable == []
            assert len(told) == len(set(told))
            assert seen <= set(told), "a record that was there is not told by the index or the folder"
        assert writers.returncode == 0
        killed = int(writers.stdout.read())
    assert killed > 10
    assert reads > 2
    assert list(folder.glob(".draft-*")), "no kill fell into the writing of a record, so this shows nothing"

    found = Store(folder).contents()
    assert found.unreadable == []
    kept = {record.record_id: record for record in found.every}
    assert len(kept) == len(found.every)
    assert {len(record.steps) for record in found.every} == {len(long.steps)}
    digests, unreadable = read_digests(folder)
    assert (digests, unreadable) == ([digest_of(record) for record in found.runs], [])
    told = [line.split() for line in acks.read_text().splitlines()]
    assert {name for _, name, _, _ in told} <= kept.keys(), "a record is lost that a writer was told is kept"
    won = Counter(name for kind, name, _, won in told if kind == "shared" and won == "True")
    assert max(won.values()) == 1, "two writers were told that they wrote the same record"
    assert all(kept[name].session_id == writer for kind, name, writer, won in told if won == "True")
    assert len({name for kind, name, _, _ in told if kind == "shared"}) == SHARED
