import os
from html.parser import HTMLParser

import pytest

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.record import Comparison, DeviceInfo, Protocol, StepTrace, TracedKernel, UnreadableFile
from memfloor.report.page import render, write_page
from memfloor.report.repeat import anatomy_commands, comparison_commands, study_commands
from memfloor.report.sentences import cautions, headline
from memfloor.report.sql import run_query, tables_of
from memfloor.report.summary import summarise
from memfloor.report.tables import CELL_COLUMNS, cell_row, invalid_row

H200 = DeviceInfo(kind="cuda", name="NVIDIA H200", memory_bytes=10**11, last_level_cache_bytes=10**7, cores=132)


def test_fractions_pair_each_run_with_its_own_ceiling(make_run, make_cell):
    total = step_traffic(make_cell().spec, make_cell().workload).total_bytes
    # Both runs are at half of their own ceiling, though times and ceilings differ tenfold.
    runs = [make_run((2 * total / rate,) * 3, rate, block) for block, rate in enumerate((1e9, 1e10))]
    [summary], _ = summarise(runs)
    fraction = summary.fractions["streamed"]
    assert fraction.ceiling.value == pytest.approx(0.5)
    assert fraction.ceiling.ci95 == pytest.approx((0.5, 0.5))
    assert fraction.peak is None


def test_a_catalogued_device_has_a_fraction_of_peak(make_run, make_cell):
    [summary], _ = summarise([make_run((1e-3,) * 3, device_name="NVIDIA H200")])
    total = step_traffic(make_cell().spec, make_cell().workload, "paper").total_bytes
    assert summary.peak_bytes_per_second == 4.8e12
    assert summary.fractions["paper"].peak.value == pytest.approx(total / 1e-3 / 4.8e12)


def test_cells_devices_and_protocols_are_not_mixed(make_run, make_cell):
    other = make_run()
    longer = other.model_copy(update={"protocol": other.protocol.model_copy(update={"timed_steps": 60})})
    runs = [make_run(), make_run(cell=make_cell(1024)), make_run(device_name="Other"), longer]
    assert [len(summary.runs) for summary in summarise(runs)[0]] == [1, 1, 1, 1]


def test_a_failed_cell_is_invalid_only_while_it_has_no_run(make_run, make_failure, make_skip, make_cell):
    assert summarise([make_run(), make_failure()])[1] == []
    [invalid] = summarise([make_failure(cell=make_cell(1024)), make_run()])[1]
    assert invalid.reason == "out of memory: needs 15 GB, 2 GB is free"
    [skipped] = summarise([make_skip()])[1]
    assert skipped.reason == "no such library"


def test_a_cell_can_be_invalid_on_one_device_and_measured_on_another(make_run, make_failure):
    summaries, invalid = summarise([make_run(), make_failure(device=H200)])
    assert len(summaries) == 1
    assert invalid[0].device == H200


def test_the_json_of_a_cell_has_the_promised_fields(make_run):
    [summary], _ = summarise([make_run(), make_run(block=1)])
    value = summary.to_json()
    assert value["model"] == "tiny"
    assert value["runs"] == 2
    assert set(value["fraction"]) == {"streamed", "paper", "blocks"}
    assert set(value["fraction"]["paper"]) == {"bytes", "peak", "ceiling", "ceiling_ci95"}
    assert value["ci95_seconds"] == pytest.approx((0.011, 0.011))
    assert value["tokens_per_second"] == pytest.approx(1 / 0.011)


def test_a_row_has_a_dash_for_what_is_not_known(make_run, make_failure):
    [summary], _ = summarise([make_run()])
    row = dict(zip(CELL_COLUMNS, cell_row(summary), strict=True))
    assert (row["95 % CI"], row["CV"], row["of peak"]) == ("-", "-", "-")
    assert invalid_row(summarise([make_failure()])[1][0])[-1] == "invalid: out of memory: needs 15 GB, 2 GB is free"


def test_the_headline_has_the_cells_own_numbers(make_run):
    summaries, _ = summarise([make_run(), make_run(block=1)])
    text = headline(summaries)
    assert "one tiny decode step at context 512 would take" in text
    assert "hf-eager takes 11 ms" in text


def test_the_headline_compares_the_slowest_with_the_fastest(make_run, make_cell):
    runs = [make_run(), make_run((0.001,) * 3, cell=make_cell(runtime="engine")), make_run(cell=make_cell(1024))]
    text = headline(summarise(runs)[0])
    assert "hf-eager takes 11 ms" in text
    assert "engine takes 1 ms" in text
    assert "Over all 3 cells" in text


def test_a_working_set_in_cache_and_a_busy_machine_are_said(make_run):
    # A ceiling at which the step is at half of its floor.
    run = make_run(ceiling=5e7)
    busy = run.environment.model_copy(update={"foreign_load": 0.25})
    quiet_device = busy.device.model_copy(update={"last_level_cache_bytes": None})
    quiet = busy.model_copy(update={"device": quiet_device, "foreign_load": 0.0})
    in_cache, beside_others = cautions(summarise([run.model_copy(update={"environment": busy})])[0])
    assert "less than 4 times the last-level cache of 33.55 MB" in in_cache
    assert "up to 25.0 % of the host's cores" in beside_others
    assert cautions(summarise([run.model_copy(update={"environment": quiet})])[0]) == []


def test_runs_of_different_launch_shapes_are_said(make_run):
    def cut(**shapes):
        run = make_run()
        path = run.path.model_copy(update={"facts": {"max_len": "9", **shapes}})
        return run.model_copy(update={"path": path})

    old = cut(shape_qkv="RowShape(2)", shape_head="RowShape(8)")
    new = cut(shape_qkv="RowShape(4)", shape_head="RowShape(8)")
    [text] = [text for text in cautions(summarise([old, new])[0]) if "launch shapes" in text]
    assert "different launch shapes of qkv;" in text
    assert not [text for text in cautions(summarise([old, old])[0]) if "launch shapes" in text]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((0, 0), None),
        ((None, None), None),
        (("not supported", 0), None),
        ((0, 1), "up to 1 other process was on the GPU during a run"),
        ((3, "not supported"), "up to 3 other processes were on the GPU during a run"),
    ],
)
def test_a_busy_gpu_is_said(make_run, counts, said):
    runs = [make_run(block=block) for block in range(len(counts))]
    environments = [
        run.environment.model_copy(update={"foreign_gpu_processes": count})
        for run, count in zip(runs, counts, strict=True)
    ]
    shared = [
        run.model_copy(update={"environment": environment}) for run, environment in zip(runs, environments, strict=True)
    ]
    texts = [text for text in cautions(summarise(shared)[0]) if "on the GPU" in text]
    assert len(texts) == (said is not None)
    assert all(said in text for text in texts)


def test_a_ceiling_that_moves_between_runs_is_said(make_run):
    steady, moved = (summarise([make_run(), make_run(ceiling=rate, block=1)])[0] for rate in (1.2e9, 1.3e9))
    assert not [text for text in cautions(steady) if "ceiling moved" in text]
    assert [text for text in cautions(moved) if "the ceiling moved from 1 GB/s to 1.3 GB/s" in text]


def test_runs_of_different_software_are_said(make_run):
    old, new = make_run(), make_run(block=1)
    newer = new.environment.model_copy(update={"packages": {"torch": "2.14.0", "numpy": "2.3"}})
    texts = cautions(summarise([old, new.model_copy(update={"environment": newer})])[0])
    assert [text for text in texts if "mix software stacks: torch 2.13.0; torch 2.14.0" in text]


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside, self.cells = [], []

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        self.outside += [names[key] for key in ("src", "href") if str(names.get(key, "")).startswith("http")]

    def handle_data(self, data):
        self.cells.append(data.strip())


def test_the_page_is_self_contained_and_holds_every_cell(make_run, make_failure, make_cell, tmp_path):
    records = [make_run(), make_run(block=1), make_failure(cell=make_cell(2048), last_words="<b>needs</b> 15 GB")]
    damaged = UnreadableFile(tmp_path / "broken.json", "not readable as JSON")
    text = render(records, [damaged], tmp_path)
    page = _Links()
    page.feed(text)
    assert page.outside == []
    assert "11 ms" in page.cells
    assert "<b>needs</b>" not in text
    assert "broken.json" in text
    assert text.count("<svg") == 2
    repeat = "memfloor study --model /models/tiny/config.json --runtime hf-eager --context 512 --device cpu --runs 2"
    assert repeat in text


def test_an_empty_folder_has_nothing_to_report(tmp_path):
    with pytest.raises(UsageError, match="holds no records"):
        render([], [], tmp_path)


def test_a_page_of_failures_alone_says_so(make_failure, tmp_path):
    assert "No cell gave a time" in render([make_failure()], [], tmp_path)


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        write_page("", tmp_path / "nowhere" / "report.html")


def test_a_page_replaces_the_one_before_and_leaves_no_draft(tmp_path):
    for text in ("old", "new"):
        write_page(text, tmp_path / "report.html")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "new")]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_page("page", pipe)
    assert os.read(reader, 10) == b"page"
    os.close(reader)
    assert pipe.is_fifo()


def test_the_repeat_commands_take_the_same_cells_and_no_others(make_run, make_cell):
    cells = [make_cell(512), make_cell(1024), make_cell(512, options={"launch": "graph"}), make_cell(512, threads=1)]
    commands = study_commands(summarise([make_run(cell=cell) for cell in cells])[0])
    assert sorted(command.partition("config.json ")[2] for command in commands) == [
        "--runtime hf-eager --context 512 --device cpu --runs 1 --threads 1",
        "--runtime hf-eager --context 512,1024 --device cpu --runs 1",
        "--runtime hf-eager,launch=graph --context 512 --device cpu --runs 1",
    ]


def test_the_repeat_command_names_every_setting_that_is_not_a_default(make_run, make_cell):
    cell = make_cell(prefill=True, weights_from="/models/tiny")
    run = make_run(cell=cell, block=2)
    protocol = run.protocol.model_copy(update={"warmup_steps": 7, "timed_steps": 60})
    [command] = study_commands(summarise([run.model_copy(update={"seed": 11, "protocol": protocol})])[0])
    settings = "--weights-from /models/tiny --warmup-steps 7 --timed-steps 60 --seed 9 --prefill"
    assert command.endswith(f"--runs 3 {settings}")


def test_the_repeat_command_names_a_head_that_is_not_the_one_by_default(make_run, make_cell):
    for formats, settings in (
        ({"weights": "int8-g32", "head": "int8-g32"}, "--weights int8-g32 --head int8-g32"),
        ({"weights": "int8-g32", "head": "bf16"}, "--weights int8-g32"),
    ):
        cell = make_cell()
        cell = cell.model_copy(update={"workload": cell.workload.model_copy(update=formats)})
        [command] = study_commands(summarise([make_run(cell=cell)])[0])
        assert command.endswith(f"--runs 1 {settings}")


def test_comparisons_and_anatomies_are_repeated_by_their_own_commands(make_run, make_cell, anatomy_of):
    formats = make_cell().workload.model_copy(update={"weights": "int8-g32", "head": "bf16"})
    cells = (
        make_cell(),
        make_cell(runtime="engine", options={"launch": "graph"}).model_copy(update={"workload": formats}),
    )
    arms = [make_cell(arm=arm) for arm in ("baseline", "candidate")]
    identity = {"record_id": "a" * 32, "session_id": "0" * 32, "taken_at": "2026-11-23T10:00:00+00:00", "seed": 3}
    fields = {**identity, "planned_runs": 10, "protocol": Protocol(), "margin": 0.02}
    changed = Comparison(
        **fields, question="ab", baseline=cells[0], candidate=cells[1], expect_null_below=1.2, may_differ=("outputs",)
    )
    same = Comparison(**fields, question="aa", baseline=arms[0], candidate=arms[1])
    model, settings = "/models/tiny/config.json", "--context 512 --device cpu --runs 10 --seed 3 --margin 0.02"
    assert comparison_commands([changed, changed, same]) == [
        f"memfloor ab {model} --baseline hf-eager --candidate engine,launch=graph,weights=int8-g32 "
        f"{settings} --expect-null-below 1.2 --may-differ outputs",
        f"memfloor aa {model} --runtime hf-eager {settings}",
    ]
    # Runs of a comparison are no study.
    assert study_commands(summarise([make_run()])[0], [changed]) == []
    kernel = TracedKernel(name="k", op="k", role="weights", start_seconds=(0.0,), seconds=(1.0,))
    one_kernel = StepTrace(
        tool="t", device="cpu", step_seconds=(1.0,), kernels=[kernel], launches={}, other_steps=1, labelled="plan"
    )
    taken = [anatomy_of(0.01, one_kernel, block=block) for block in range(3)]
    assert anatomy_commands(taken) == [
        f"memfloor anatomy {model} --runtime hf-eager --context 512 --traced-steps 2 --device cpu --runs 3"
    ]


def test_sql_sees_runs_and_steps(make_run, make_failure):
    records = [make_run(), make_run(block=1), make_failure()]
    names, rows = run_query(tables_of(records), "select kind, count(*) as n from runs group by kind order by kind")
    assert names == ["kind", "n"]
    assert rows == [("failure", 1), ("run", 2)]
    _, rows = run_query(tables_of(records), "select median(host_seconds) from steps where phase = 'timed'")
    assert rows[0][0] == pytest.approx(0.011)
    _, rows = run_query(tables_of(records), "select p50_seconds, reason from runs where kind = 'failure'")
    assert rows == [(None, "out of memory: needs 15 GB, 2 GB is free")]


def test_sql_tells_arms_apart_and_sees_an_anatomys_own_ledger(make_run, make_cell, anatomy_of):
    runs = [make_run(cell=make_cell(arm=arm)) for arm in ("baseline", "candidate")]
    assert run_query(tables_of(runs), "select arm from runs order by arm")[1] == [("baseline",), ("candidate",)]
    kernel = TracedKernel(name="k", op="k", role="weights", start_seconds=(0.0,), seconds=(0.009,))
    trace = StepTrace(tool="t", device="cpu", step_seconds=(0.009,), kernels=[kernel], launches={}, labelled="plan")
    sums = "floor_seconds + weight_products_seconds + attention_seconds + cache_copies_seconds"
    sums += " + norms_and_elementwise_seconds + sampling_seconds + host_and_launch_seconds + unexplained_seconds"
    _, [row] = run_query(
        tables_of([], [anatomy_of(0.01, trace)]), f"select step_seconds, {sums}, unexplained_seconds from anatomies"
    )
    assert row == pytest.approx((0.01, 0.01, 0.001))


def test_sql_over_nothing_gives_no_rows():
    assert run_query(tables_of([]), "select * from runs")[1] == []


@pytest.mark.parametrize(
    "sql",
    ["selec 1", "select nothing from runs", "copy runs to '/tmp/x.csv'", "select * from read_text('/etc/passwd')"],
)
def test_sql_that_is_wrong_or_reaches_outside_is_refused(make_run, sql):
    with pytest.raises(UsageError, match=r"tables: runs\("):
        run_query(tables_of([make_run()]), sql)


def test_each_device_has_a_table_of_its_own(make_run, make_failure, make_cell, tmp_path):
    lost = make_failure(cell=make_cell(2048), device=H200)
    page = render([make_run(), make_run(device_name="Other CPU"), lost], [], tmp_path)
    titles = [part.partition("</h3>")[0] for part in page.split("<h3>")[1:]]
    assert titles == ["Other CPU", "Some CPU", "NVIDIA H200"]
    assert "<h3>" not in render([make_run(), make_failure(cell=make_cell(2048))], [], tmp_path)


def test_a_page_of_many_cells_draws_some_says_so_and_can_be_searched(make_run, make_cell, tmp_path):
    few, many = ([make_run(cell=make_cell(512 + number)) for number in range(count)] for count in (3, 41))
    long, short = (render(runs, [], tmp_path) for runs in (many, few))
    assert (short.count("<script"), long.count("<script")) == (0, 1)
    assert 'class="scroll long"' in long
    assert "Shown: 24 of 41 cells; the table holds all." in long
    assert "Shown:" not in short
