"""Hand-counted joules per token, watts and costs from records, and what a reader is warned of."""

import uuid

import pytest
from pydantic import ValidationError

from memfloor.cli.records import read_contents
from memfloor.prices import Electricity, OwnedPrice, Ownership, PriceList, RentedPrice
from memfloor.record import (
    EnergyProtocol,
    EnergyReading,
    EnergyRun,
    EnergySensor,
    EnergyWindow,
    MeasuredEnergy,
    ObservedPath,
    Store,
)
from memfloor.report.cost import cost_rows
from memfloor.report.cost_section import price_text
from memfloor.report.energy import energies_of, energy_text
from memfloor.report.energy_cautions import energy_cautions
from memfloor.report.energy_section import ENERGY_COLUMNS, energy_row, energy_section, sensor_sentences
from memfloor.report.page import render
from memfloor.report.repeat import energy_commands
from memfloor.report.sql import run_query, tables_of
from memfloor.report.summary import summarise
from memfloor.spec import Workload

H200 = "NVIDIA H200"
COUNTER = EnergySensor(
    name="NVML total energy",
    covers="the GPU with its memory",
    quantity="joules",
    period_seconds=0.1,
    period_source="measured",
)
WORDS = {"currency": "USD", "date": "2026-01-01", "source": "test"}


def _window(*readings):
    return EnergyWindow(readings=[EnergyReading(seconds=at, value=value) for at, value in readings], sensors={})


@pytest.fixture
def make_energy(make_run, make_cell):
    """Return a function that makes a run of 2000 steps in 10 s and so many joules, on a device that idles at 100 W."""

    def make(joules=4000.0, block=0, cell=None, idle_after=500.0, share=0.4, **changes):
        environment = make_run(device_name=H200).environment
        measured = MeasuredEnergy(
            sensor=COUNTER,
            idle_before=_window((0, 7.0), (5, 507.0)),
            decoding=_window((0, 1000.0), (4, 1000.0 + share * joules), (10, 1000.0 + joules)),
            idle_after=_window((0, 9000.0), (5, 9000.0 + idle_after)),
            **{
                "calls": 1000,
                "steps_per_call": 2,
                "start_len": 384,
                "span_calls": 128,
                "rewinds": 7,
                "rewind_seconds": 0.05,
                **changes,
            },
            environment=environment,
            path=ObservedPath(operators={}, facts={}),
        )
        return _run(cell or make_cell(), block, measured=measured)

    return make


def _run(cell, block=0, **found):
    identity = {"record_id": uuid.uuid4().hex, "session_id": "0" * 32, "taken_at": "2026-11-28T02:00:00+00:00"}
    return EnergyRun(**identity, block=block, seed=block, cell=cell, protocol=EnergyProtocol(), **found)


def test_a_token_costs_what_the_counter_moved_by_and_less_what_idling_takes(make_energy):
    (summary,) = energies_of([make_energy()]).summaries
    assert summary.watts.value == pytest.approx(400.0)
    assert summary.idle_watts.value == pytest.approx(100.0)
    assert summary.joules_per_token.value == pytest.approx(2.0)
    # 3000 J above what it would have taken idle in 10 s.
    assert summary.joules_per_token_above_idle.value == pytest.approx(1.5)
    assert summary.tokens_per_joule.value == pytest.approx(0.5)
    assert summary.tokens_per_joule_above_idle.value == pytest.approx(2 / 3)
    assert summary.step_seconds.value == pytest.approx(9.95 / 2000)
    assert summary.depths == (384, 384 + 256 - 1)
    assert summary.joules_per_token.ci95 is None
    assert energy_cautions([summary]) == []


def test_a_batch_shares_the_energy_of_its_steps(make_energy, make_cell):
    cell = make_cell().model_copy(update={"workload": Workload.of(512, batch=4)})
    (summary,) = energies_of([make_energy(cell=cell)]).summaries
    assert summary.joules_per_token.value == pytest.approx(0.5)
    assert summary.watts.value == pytest.approx(400.0)


def test_intervals_are_t_intervals_over_runs(make_energy):
    (summary,) = energies_of([make_energy(joules, block) for block, joules in enumerate((3800, 4000, 4200))]).summaries
    assert summary.watts.value == pytest.approx(400.0)
    # A standard deviation of 20 W, three runs, and the 97.5 % point of t with two degrees of freedom.
    half = 4.3027 * 20 / 3**0.5
    assert summary.watts.ci95 == pytest.approx((400 - half, 400 + half), rel=1e-4)


def test_power_is_integrated_and_a_counter_is_not():
    window = _window((0, 100.0), (1, 200.0), (3, 400.0))
    assert window.joules("watts") == pytest.approx(150 + 600)
    assert window.joules("joules") == pytest.approx(300)


def test_a_short_window_does_not_reach_the_end_of_a_span(make_energy):
    measured = make_energy(calls=10, rewinds=0).measured
    assert measured.depths == (384, 384 + 20 - 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewind_seconds": 0.2}, "2.0 % of a window went into going back"),
        ({"idle_after": 700.0}, "idled at 100 W before and 140 W after"),
        # 1500 J in 4 s and 2500 J in 6 s.
        ({"share": 0.375}, "power went from 375 W to 416.7 W within a window"),
    ],
)
def test_what_makes_a_figure_unsure_is_said(make_energy, changes, words):
    (summary,) = energies_of([make_energy(**changes)]).summaries
    (caution,) = energy_cautions([summary])
    assert words in caution
    assert "tiny hf-eager at context 512" in caution


def test_no_more_than_idling_has_no_tokens_per_joule(make_energy):
    (summary,) = energies_of([make_energy(joules=900)]).summaries
    assert summary.joules_per_token_above_idle.value == pytest.approx(-0.05)
    assert summary.tokens_per_joule_above_idle is None
    assert energy_row(summary)[8] == "-"


def test_a_run_is_measured_or_says_why_not(make_cell, make_energy):
    for found in ({}, {"measured": make_energy().measured, "problem": "none"}):
        with pytest.raises(ValidationError, match="either a measurement or a problem"):
            _run(make_cell(), **found)
    with pytest.raises(ValidationError, match="not in the order of time"):
        _window((0, 1.0), (0, 2.0))


def test_energy_lies_in_the_store_beside_runs_and_is_none_of_them(tmp_path, make_run, make_energy, make_cell):
    store = Store(tmp_path)
    lost = _run(make_cell(runtime="engine"), problem="RAPL: Permission denied")
    for record in (make_run(), make_energy(), lost):
        store.add(record)
    found = read_contents(tmp_path)
    assert [record.kind for record in found.runs] == ["run"]
    assert {record.record_id for record in found.energy_runs} >= {lost.record_id}
    names, rows = run_query(
        tables_of([], energy_runs=found.energy_runs), "SELECT tokens, watts, reason FROM energy ORDER BY tokens"
    )
    assert names == ["tokens", "watts", "reason"]
    assert rows == [(2000, 400.0, None), (None, None, "RAPL: Permission denied")]


def test_the_page_shows_watts_the_sensor_and_reasons(make_energy, make_cell, tmp_path):
    lost = _run(make_cell(runtime="engine"), problem="RAPL: Permission denied <b>")
    energies = energies_of([make_energy(), make_energy(block=1), lost])
    assert len(energy_row(energies.summaries[0])) == len(ENERGY_COLUMNS)
    assert sensor_sentences(energies) == [
        "NVIDIA H200: NVML total energy, an energy counter, of the GPU with its memory; it moved at least every 100 ms."
    ]
    page = render([], [], tmp_path, energies=energies)
    assert "not measured: RAPL: Permission denied &lt;b&gt;" in page
    assert "Energy, and no plain runs." in page
    assert "<td>400</td>" in page
    assert energy_section(energies_of([])) == ""
    # A spec that is not the catalogue's is repeated by its file.
    assert energy_commands(energies) == [
        "memfloor energy /models/tiny/config.json --runtime hf-eager --context 512 --device cpu --runs 2"
    ]
    assert "2 J a token, 400 W, idle 100 W by NVML total energy" in energy_text(make_energy())


def test_a_cell_without_energy_is_forgotten_once_it_was_measured(make_energy, make_cell):
    found = energies_of([_run(make_cell(), problem="no sensor"), make_energy(), _run(make_cell(), problem="died")])
    assert (len(found.summaries), found.without) == (1, ())


def test_an_owned_device_pays_for_the_watts_that_its_own_cell_was_measured_with(make_run, make_cell, make_energy):
    other = make_cell(context_len=1024)
    summaries = summarise([make_run((1e-3,) * 3, device_name=H200, cell=cell) for cell in (make_cell(), other)])[0]
    # A year has 8766 hours: a dollar an hour, and half a kilowatt or the 400 W measured at 0.2 dollars.
    bought = OwnedPrice(device="h200", provider="a", price=8766.0, watts=500, **WORDS)
    rented = RentedPrice(device="h200", provider="b", per_hour=3.0, **WORDS)
    terms = Ownership(years=1, electricity=Electricity(per_kwh=0.2, **WORDS))
    energies = energies_of([make_energy()]).summaries
    rows = cost_rows(summaries, PriceList(owned=(bought,), rented=(rented,)), terms, False, energies)
    owned = {row.context_len: row for row in rows if row.price is bought}
    assert owned[512].per_hour == pytest.approx(1.08)
    assert owned[1024].per_hour == pytest.approx(1.10)
    assert price_text(owned[512]).endswith("400 W (measured by NVML total energy)")
    assert price_text(owned[1024]).endswith("500 W (price list)")
    assert owned[512].to_json(None)["power"] == {"watts": 400.0, "source": "measured by NVML total energy"}
    assert {(row.per_hour, row.power) for row in rows if row.price is rented} == {(3.0, None)}
