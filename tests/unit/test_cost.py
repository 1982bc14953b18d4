"""Hand-counted costs; prices that lack something; and what the study's own steps cost."""

import datetime

import pytest

from memfloor.errors import UsageError
from memfloor.hardware import catalogue as devices
from memfloor.prices import (
    Electricity,
    OwnedPrice,
    Ownership,
    PriceList,
    RentedPrice,
    catalogue,
    parse_electricity,
    parse_price,
    read_prices,
)
from memfloor.report.cost import catalogue_costs, comparable, cost_rows, spread_sentence, without_price
from memfloor.report.cost_section import COST_COLUMNS, cost_row, cost_section, costs
from memfloor.report.paper import dollars_per_million_tokens
from memfloor.report.summary import summarise
from memfloor.spec import Workload, load_model

H200 = "NVIDIA H200"
WORDS = {"currency": "USD", "date": "2026-01-01", "source": "test"}
ELECTRICITY = Electricity(per_kwh=0.2, **WORDS)
OWNERSHIP = Ownership(electricity=ELECTRICITY)


@pytest.fixture
def summaries(make_run):
    """Return the summary of three runs of 1, 2 and 3 ms on an H200."""
    return summarise(
        [make_run((seconds,) * 3, block=block, device_name=H200) for block, seconds in enumerate((1e-3, 2e-3, 3e-3))]
    )[0]


def _list(**prices):
    return PriceList(**prices)


def test_a_rented_hour_over_the_tokens_it_gives(summaries):
    prices = _list(rented=(RentedPrice(device="h200", provider="a", per_hour=3.6, **WORDS),))
    (row,) = cost_rows(summaries, prices, OWNERSHIP, with_published=False)
    # 3.6 an hour is 0.001 a second, in which 500 tokens are made: two millionths each.
    assert row.per_million_tokens == pytest.approx(2.0)
    assert row.ci95 == pytest.approx((1.0, 3.0))
    assert row.tokens_per_hour == pytest.approx(1.8e6)
    even = row.break_even(0.5)
    assert (even.times, even.step_seconds) == pytest.approx((4.0, 0.5e-3))
    assert row.to_json(0.5)["break_even"] == {"times": pytest.approx(4.0), "step_seconds": pytest.approx(0.5e-3)}
    assert len(cost_row(row)) == len(COST_COLUMNS)
    assert cost_row(row, 0.5)[-2:] == ["4 times", "500 us"]


def test_a_batch_shares_the_cost_of_its_step(make_run, make_cell):
    cell = make_cell().model_copy(update={"workload": Workload.of(512, batch=4)})
    batched = summarise([make_run((2e-3,) * 3, device_name=H200, cell=cell)])[0]
    prices = _list(rented=(RentedPrice(device="h200", provider="a", per_hour=3.6, **WORDS),))
    (row,) = cost_rows(batched, prices, OWNERSHIP, with_published=False)
    assert row.per_million_tokens == pytest.approx(0.5)
    assert row.ci95 is None


def test_an_owned_hour_is_its_share_of_the_price_and_its_power():
    bought = OwnedPrice(device="h200", provider="a", price=8766.0, watts=500, **WORDS)
    # A year has 8766 hours; half a kilowatt at 0.2 is 0.1.
    assert bought.hourly(Ownership(years=1, electricity=ELECTRICITY)) == pytest.approx(1.1)
    assert bought.hourly(Ownership(years=2, electricity=ELECTRICITY)) == pytest.approx(0.6)
    # What idles costs as much to buy and takes no power.
    assert bought.hourly(Ownership(years=1, utilisation=0.5, electricity=ELECTRICITY)) == pytest.approx(2.1)
    other = Ownership(electricity=ELECTRICITY.model_copy(update={"currency": "EUR"}))
    with pytest.raises(UsageError, match="priced in USD and electricity in EUR"):
        bought.hourly(other)


def test_prices_of_ones_own_replace_those_of_the_same_device():
    own = parse_price("h200=1.5:EUR:2026-11-27")
    assert own.date == datetime.date(2026, 11, 27)
    listed = catalogue().beneath(PriceList(rented=(own,)))
    assert listed.of("h200") == [own]
    assert listed.of("l4") == catalogue().of("l4")
    assert listed.electricity == catalogue().electricity


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h200", "DEVICE=AMOUNT:CURRENCY:DATE"),
        ("h200=3", "needs AMOUNT:CURRENCY:DATE"),
        ("h200=3:USD", "needs AMOUNT:CURRENCY:DATE"),
        ("h200=0:USD:2026-01-01", "per_hour"),
        ("h200=nan:USD:2026-01-01", "per_hour"),
        ("h200=3:dollars:2026-01-01", "currency"),
        ("h200=3:USD:yesterday", "date"),
    ],
)
def test_a_price_without_amount_currency_or_date_is_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse_price(text)


def test_electricity_and_terms_out_of_range_are_refused():
    assert parse_electricity("0:USD:2026-01-01").per_kwh == 0
    with pytest.raises(UsageError, match="per_kwh"):
        parse_electricity("-1:USD:2026-01-01")
    for terms in ((0, 1), (3, 0), (3, 1.5)):
        with pytest.raises(UsageError, match=r"years|utilisation"):
            Ownership.of(*terms, ELECTRICITY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rented]]\ndevice = 'l4'\nprovider = 'a'\nper_hour = 1\ndate = 2026-01-01\nsource = 'b'", "currency"),
        ("[[rented]]\ndevice = 'l4'\nprovider = 'a'\nper_hour = 1\ncurrency = 'USD'\nsource = 'b'", "date"),
        ("[[bought]]\ndevice = 'l4'", "bought"),
        ("rented = 3", "rented"),
        ("not toml", "not TOML"),
    ],
)
def test_a_file_of_prices_that_lacks_something_is_refused(tmp_path, text, words):
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_prices(tmp_path / "prices.toml")
    with pytest.raises(UsageError, match="cannot read"):
        read_prices(tmp_path / "none.toml")


def test_a_price_of_an_unknown_device_is_refused_and_a_measured_one_may_have_any_name(make_run, summaries):
    with pytest.raises(UsageError, match="unknown device of a price 'h2000'"):
        cost_rows(summaries, _list(rented=(parse_price("h2000=3:USD:2026-01-01"),)), OWNERSHIP)
    uncatalogued = summarise([make_run(device_name="Some CPU")])[0]
    assert without_price(uncatalogued, catalogue()) == ["Some CPU"]
    priced = _list(rented=(parse_price("Some CPU=3:USD:2026-01-01"),))
    assert [row.device for row in cost_rows(uncatalogued, priced, OWNERSHIP, with_published=False)] == ["Some CPU"]


def test_the_catalogue_names_devices_that_exist_and_gives_the_studys_costs():
    assert {price.device for price in catalogue().devices} <= devices().keys()
    published = dollars_per_million_tokens()
    for row in catalogue_costs([]):
        assert row.price.provider == "Modal"
        assert row.per_million_tokens == pytest.approx(published[row.path])


def test_the_studys_claim_stands_beside_what_its_cells_give():
    sentence = spread_sentence(catalogue_costs([]))
    assert "4.4 times as much" in sentence
    assert "claims 7.9 times" in sentence
    assert spread_sentence(catalogue_costs([])[:1]) is None


def test_the_section_and_figure_9_need_a_measured_device_with_a_price(make_run, make_cell, summaries):
    assert cost_section(catalogue_costs([])) == ""
    assert "Figure 9" not in cost_section(catalogue_costs(summaries))
    study = make_cell().model_copy(update={"spec": load_model("qwen2.5-7b"), "workload": Workload.of(2048)})
    rows = catalogue_costs(summarise([make_run((3e-3,) * 3, device_name=H200, cell=study)])[0])
    assert "Figure 9" in cost_section(rows)
    shown = comparable(rows)
    # Eight published steps, and the measured one.
    assert len(costs(shown).axes[0].patches) == len(shown) == 9
