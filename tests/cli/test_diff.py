import json

import pytest

from memfloor.record import Run, Store


@pytest.fixture
def slower(fake_records, tmp_path):
    """Return a folder of the same cells, each step half as long again, and of another commit."""
    store = Store(tmp_path / "slower")
    store.open_for_writing()
    for record in Store(fake_records).read()[0]:
        if isinstance(record, Run):
            steps = [step.model_copy(update={"host_seconds": 1.5 * step.host_seconds}) for step in record.steps]
            place = record.environment.model_copy(update={"git_commit": "beef"})
            store.add(record.model_copy(update={"steps": tuple(steps), "environment": place}))
    return tmp_path / "slower"


def test_a_slower_cell_fails_the_gate(memfloor, fake_records, slower):
    done = memfloor("diff", fake_records, slower, "--fail-if", "slower", "--json")
    answer = json.loads(done.out)
    assert answer["only_before"] == answer["only_after"] == []
    for cell in answer["cells"]:
        assert cell["ratio"] == pytest.approx(1 / 1.5)
    words = {cell["verdict"].partition(":")[0] for cell in answer["cells"]}
    assert done.status == (4 if "slower" in words else 0)
    assert memfloor("diff", fake_records, slower).status == 0
    assert memfloor("diff", fake_records, fake_records, "--fail-if", "slower", "--fail-if", "missing").status == 0


def test_a_table_for_github_and_one_commit_of_a_folder(memfloor, fake_records, slower):
    done = memfloor("diff", fake_records, f"{slower}@bee", "--markdown")
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("|")]
    assert lines[1].replace("|", "").replace("-", "").strip() == ""
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("before", "arguments", "words"),
    [
        ("/no/such", (), "/no/such is not a folder"),
        ("{}@cafe", (), "has no run of commit 'cafe'; it has"),
        ("{}@", (), "has no run of commit ''"),
        ("{}", ("--margin", 0), "margin must be above 0"),
        ("{}", ("--fail-if", "worse"), "worse"),
    ],
)
def test_bad_input_is_one_line(memfloor, fake_records, before, arguments, words):
    done = memfloor("diff", before.format(fake_records), fake_records, *arguments)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_nothing_in_common_ends_with_status_1(memfloor, fake_records, tmp_path):
    (tmp_path / "empty").mkdir()
    done = memfloor("diff", fake_records, tmp_path / "empty", "--fail-if", "missing")
    assert done.status == 1
    assert "no cell has times in both" in done.err
