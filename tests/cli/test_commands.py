"""Every command and the shape of its `--json`."""

import html
import json
import shutil

import pytest

from memfloor.experiments import probe as probing
from memfloor.floor import CONVENTIONS
from memfloor.hardware import catalogue
from memfloor.runtimes import REGISTRY
from memfloor.spec import model_names

CAUSES = {
    "attention_weights",
    "mlp_weights",
    "head",
    "embedding",
    "norms_and_biases",
    "scales",
    "kv_read",
    "kv_write",
}


@pytest.fixture
def answer(memfloor):
    """Return a function that runs a command with `--json` and returns what it printed, read back."""

    def run(*arguments):
        result = memfloor(*arguments, "--json")
        assert result.status == 0, result.err
        return json.loads(result.out)

    return run


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_floor_gives_one_object_for_one_context(answer):
    floor = answer("floor", "qwen2.5-7b", "--context", "2048", "--device", "h100-sxm5", "--device", "l4")
    assert (floor["model"], floor["context_len"], floor["batch"], floor["weights"]) == ("qwen2.5-7b", 2048, 1, "bf16")
    assert set(floor["bytes"]) == {"paper", "streamed", "blocks"}
    for causes in floor["bytes"].values():
        assert set(causes) == CAUSES | {"total"}
        assert sum(value for name, value in causes.items() if name != "total") == causes["total"]
    assert [(item["device"], item["convention"]) for item in floor["floors"]] == [
        (device, convention) for device in ("h100-sxm5", "l4") for convention in CONVENTIONS
    ]
    for item in floor["floors"]:
        total = floor["bytes"][item["convention"]]["total"]
        assert item["floor_seconds"] == pytest.approx(total / item["peak_bytes_per_second"])


def test_floor_gives_the_bytes_of_the_study(answer):
    totals = {name: causes["total"] for name, causes in answer("floor", "qwen2.5-7b")["bytes"].items()}
    rounded = {name: f"{total / 1e9:.3f}" for name, total in totals.items()}
    assert rounded == {"paper": "15.349", "streamed": "14.259", "blocks": "13.169"}


def test_floor_gives_a_list_for_several_contexts(answer):
    floors = answer("floor", "qwen2.5-0.5b", "--context", "512,2k", "--batch", "2", "--weights", "int4-g128")
    assert [(floor["context_len"], floor["batch"], floor["weights"]) for floor in floors] == [
        (512, 2, "int4-g128"),
        (2048, 2, "int4-g128"),
    ]


def test_floor_takes_every_device_of_the_catalogue_unless_told(answer):
    devices = {item["device"] for item in answer("floor", "llama-3.2-1b")["floors"]}
    assert devices == set(catalogue())


@pytest.mark.parametrize("name", model_names())
def test_floor_knows_every_catalogued_model(answer, name):
    assert answer("floor", name, "--device", "h200")["model"] == name


def test_floor_reads_a_folder_and_its_config_alike(answer, tiny_model):
    assert answer("floor", tiny_model) == answer("floor", f"{tiny_model}/config.json")


def test_floor_measures_this_machine_when_asked(answer, monkeypatch):
    from memfloor.measure import ceiling

    monkeypatch.setattr(ceiling, "buffer_bytes", lambda cache: 2**22)
    floors = answer("floor", "qwen2.5-0.5b", "--device", "this-machine")["floors"]
    assert {(item["device"], item["measured"]) for item in floors} == {("this-machine", True)}
    assert all(item["peak_bytes_per_second"] > 0 for item in floors)


def test_floor_prints_bytes_by_cause_and_times_by_device(memfloor):
    out = memfloor("floor", "qwen2.5-7b", "--context", "2048", "--device", "h100-sxm5").out
    assert "attention weights" in out
    for figure in ("15.35 GB", "14.26 GB", "13.17 GB", "3.35 TB/s", "4.256 ms"):
        assert figure in out


def test_probe_gives_the_spread_of_each_size_and_kind(answer, monkeypatch):
    monkeypatch.setattr(probing, "CPU_SIZES", (2**20, 2**22))
    result = answer("probe", "--device", "cpu", "--repeats", "2")
    assert [(item["kind"], item["buffer_bytes"]) for item in result["bandwidths"]] == [
        ("read", 2**20),
        ("read", 2**22),
        ("copy", 2**22),
        ("triad", 2**22),
    ]
    for item in result["bandwidths"]:
        assert (
            0 < item["lowest_bytes_per_second"] <= item["median_bytes_per_second"] <= item["highest_bytes_per_second"]
        )
    assert result["read_bytes_per_second"] == result["bandwidths"][1]["median_bytes_per_second"]
    assert result["device"]["kind"] == "cpu"
    facts = ("caches", "NUMA nodes", "transparent huge pages", "host cores", "cpu clock hz")
    assert set(facts) <= set(result["facts"])


def test_probe_prints_a_table_and_the_facts(memfloor, monkeypatch):
    monkeypatch.setattr(probing, "CPU_SIZES", (2**20,))
    out = memfloor("probe", "--device", "cpu", "--repeats", "1", "--threads", "1").out
    for words in ("read 1.049 MB", "copy 1.049 MB", "triad 1.049 MB", "1 threads", "transparent huge pages: "):
        assert words in out


def test_doctor_names_every_part_with_its_reason(answer):
    parts = answer("doctor")
    assert {f"runtime {name}" for name in REGISTRY} <= set(parts)
    assert {"native kernels", "CUDA GPU"} <= set(parts)
    for part in parts.values():
        assert set(part) == {"usable", "reason"}
        assert part["usable"] == (part["reason"] is None)


def test_doctor_prints_what_can_run_and_why_not(memfloor):
    out = memfloor("doctor").out
    assert "runtime hf-eager" in out
    assert "native kernels" in out


def test_paper_gives_cells_and_findings(answer):
    paper = answer("paper")
    assert set(paper) == {"title", "source", "cells", "findings"}
    for cell in paper["cells"]:
        assert set(cell["implied_step_seconds"]) == set(CONVENTIONS)
        assert 0 < cell["fraction"] < 1
    for finding in paper["findings"]:
        assert set(finding) == {"name", "sentence", "numbers"}
        assert all(is_number(value) for value in finding["numbers"].values())


def test_paper_prints_every_finding(memfloor, answer):
    sentences = [finding["sentence"] for finding in answer("paper")["findings"]]
    printed = " ".join(memfloor("paper").out.split())
    assert all(" ".join(sentence.split()) in printed for sentence in sentences)


def test_runs_gives_whole_records_oldest_first(answer, fake_records):
    records = answer("runs", fake_records)
    assert sorted(record["kind"] for record in records) == ["failure", "run", "run", "run", "run", "skip"]
    assert [record["taken_at"] for record in records] == sorted(record["taken_at"] for record in records)
    run = next(record for record in records if record["kind"] == "run")
    assert len(run["steps"]) == 2 + 4 + 1
    assert len(run["ceilings"]) == 3


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--kind", "run"], 4),
        (["--kind", "failure"], 1),
        (["--kind", "skip"], 1),
        (["--context", "64"], 2),
        (["--context", "64", "--kind", "failure"], 0),
        (["--model", "tiny"], 6),
        (["--model", "qwen2.5-7b"], 0),
        (["--runtime", "hf-eager"], 6),
        (["--runtime", "hf-static"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_runs_are_filtered(answer, fake_records, filters, count):
    assert len(answer("runs", fake_records, *filters)) == count


def test_runs_prints_a_line_per_record_with_its_reason(memfloor, fake_records):
    out = memfloor("runs", fake_records).out
    assert "6 records" in out
    assert "out_of_memory: the model needs 9 TB" in out
    assert "this runtime needs another machine" in out
    assert out.count("1 GB/s") == 4


def test_query_gives_objects_by_column(answer, fake_records):
    columns = "context_len, count(*) AS n, median(p50_seconds) AS p50"
    sql = f"SELECT {columns} FROM runs WHERE kind = 'run' GROUP BY ALL ORDER BY 1"
    assert answer("query", fake_records, sql) == [
        {"context_len": 64, "n": 2, "p50": pytest.approx(1.5e-3)},
        {"context_len": 128, "n": 2, "p50": pytest.approx(1.5e-3)},
    ]


def test_query_gives_every_column_of_every_record(answer, fake_records):
    rows = answer("query", fake_records, "SELECT * FROM runs ORDER BY taken_at")
    records = answer("runs", fake_records)
    assert [row["record_id"] for row in rows] == [record["record_id"] for record in records]
    # The same moments, written by DuckDB without the zone: both are UTC.
    assert [row["taken_at"][:19].replace(" ", "T") for row in rows] == [item["taken_at"][:19] for item in records]
    for row in rows:
        assert (row["p50_seconds"] is None) == (row["kind"] != "run")
        assert (row["reason"] is None) == (row["kind"] == "run")


def test_query_sees_every_step_in_order(answer, fake_records):
    sql = "SELECT list(phase ORDER BY step) AS phases FROM steps GROUP BY record_id"
    rows = answer("query", fake_records, sql)
    assert {row["phases"] for row in rows} == {
        "['warmup', 'warmup', 'timed', 'timed', 'settle', 'timed', 'timed']",
    }


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_query_for_what_is_no_number_is_still_json(answer, fake_records, value):
    assert answer("query", fake_records, f"SELECT '{value}'::DOUBLE AS x") == [{"x": value}]


@pytest.mark.parametrize("text", ["[/x]", "[bold]", ":smile:", "[red]a[/red]"])
def test_a_table_prints_texts_as_they_are(memfloor, fake_records, text):
    result = memfloor("query", fake_records, f"SELECT '{text}' AS t")
    assert result.status == 0
    assert text in result.out


@pytest.mark.usefixtures("fake_child")
def test_no_figure_of_the_cell_table_is_cut(memfloor, tiny_model, tmp_path):
    from memfloor.record import Store
    from memfloor.report.summary import summarise
    from memfloor.report.tables import CELL_COLUMNS, cell_row

    options = ("--context", "64,128", "--runs", 2, "--runtime", "hf-static", "--out", tmp_path, "--device", "cpu")
    out = memfloor("study", "--model", tiny_model, *options).out
    summaries, _ = summarise(Store(tmp_path).read()[0])
    printed = " ".join(out.split())
    for words in (*CELL_COLUMNS, *(value for summary in summaries for value in cell_row(summary))):
        assert " ".join(words.split()) in printed


@pytest.mark.parametrize("command", ["runs", "query", "figure"])
def test_unreadable_files_are_named_and_the_rest_is_read(memfloor, fake_records, tmp_path, command):
    folder = shutil.copytree(fake_records, tmp_path / "records")
    whole = next(folder.glob("*run000*.json"))
    record = json.loads(whole.read_text())
    (folder / "truncated.json").write_bytes(whole.read_bytes()[:200])
    (folder / "newer.json").write_text(json.dumps({**record, "schema_version": 2}))
    (folder / "unknown.json").write_text(json.dumps({**record, "surprise": 1}))
    (folder / "foreign.json").write_text('{"mine": true}')
    (folder / "readme.txt").write_text("not looked at")
    arguments = {
        "runs": [folder],
        "query": [folder, "SELECT count(*) FROM runs"],
        "figure": ["1", folder, "-o", tmp_path / "out"],
    }
    result = memfloor(command, *arguments[command])
    assert result.status == 0
    named = {line.split(": ")[1].rsplit("/", 1)[1]: line for line in result.err.splitlines()}
    assert set(named) == {"truncated.json", "newer.json", "unknown.json", "foreign.json"}
    assert "schema version 2" in named["newer.json"]
    assert "surprise" in named["unknown.json"]


def _beyond(record):
    record["cell"]["workload"]["context_len"] = record["cell"]["spec"]["max_position_embeddings"] + 1


def _without_time(record):
    record["taken_at"] = "yesterday"


def _no_ceiling(record):
    record["ceilings"][0]["pass_seconds"][0] = 0.0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_beyond, "positions; allowed: 1 to"),
        (_without_time, "taken_at: 'yesterday' is no time such as"),
        (_no_ceiling, "pass_seconds.0: Input should be greater than 0"),
    ],
)
@pytest.mark.parametrize("command", ["runs", "query", "query steps", "figure", "cost", "predict", "report"])
def test_a_record_that_cannot_be_interpreted_is_left_out_and_named(
    memfloor, fake_records, tmp_path, command, spoil, reason
):
    folder, page = shutil.copytree(fake_records, tmp_path / "records"), tmp_path / "report.html"
    spoiled = folder / "spoiled.json"
    record = json.loads(next(folder.glob("*run000*.json")).read_text())
    spoil(record)
    spoiled.write_text(json.dumps({**record, "record_id": "f" * 32}))
    arguments = {
        "runs": [folder],
        "query": [folder, "SELECT count(*) FROM runs"],
        "query steps": [folder, "SELECT count(*) FROM steps JOIN runs USING (record_id)"],
        "figure": ["1", folder, "-o", tmp_path / "out"],
        "cost": [folder],
        "predict": ["qwen2.5-7b", "--device", "l4", "--runtime", "hf-eager", "--records", folder],
        "report": [folder, "-o", page],
    }
    result = memfloor(command.split()[0], *arguments[command])
    assert result.status == 0
    # Escaped on the page.
    said = html.unescape(page.read_text()) if command == "report" else result.err
    assert str(spoiled) in said
    assert reason in said


def test_an_empty_folder_has_no_runs(answer, tmp_path):
    assert answer("runs", tmp_path) == []


def test_the_version_is_printed(memfloor):
    import memfloor as package

    assert memfloor("--version").out.strip() == package.__version__


@pytest.mark.parametrize(
    "command",
    [
        "floor",
        "probe",
        "measure",
        "study",
        "runs",
        "query",
        "report",
        "figure",
        "diff",
        "cost",
        "predict",
        "paper",
        "doctor",
        "energy",
    ],
)
def test_every_command_explains_itself(memfloor, command):
    result = memfloor(command, "--help")
    assert result.status == 0
    assert f"memfloor {command}" in result.out
