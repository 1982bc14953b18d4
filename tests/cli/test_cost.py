import json

import pytest


def test_costs_of_measured_and_published_steps(memfloor, fake_records):
    unpriced = memfloor("cost", fake_records)
    assert unpriced.status == 0, unpriced.err
    (name,) = json.loads(memfloor("cost", fake_records, "--json").out)["without_price"]
    assert f"No price for {name}" in unpriced.out.replace("\n", " ")
    done = memfloor("cost", fake_records, "--price", f"{name}=3.6:USD:2026-11-27", "--api", "0.5:USD", "--json")
    rows = json.loads(done.out)["rows"]
    measured = [row for row in rows if row["origin"] == "measured"]
    for row in measured:
        assert row["per_million_tokens"] == pytest.approx(3.6 / 3600 * row["step_seconds"] * 1e6 / row["batch"])
        assert row["break_even"]["times"] == pytest.approx(row["per_million_tokens"] / 0.5)
    assert len(rows) - len(measured) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--price", "l4=3"), "AMOUNT:CURRENCY:DATE"),
        (("--price", "l5=3:USD:2026-01-01"), "unknown device of a price 'l5'"),
        (("--api", "3"), "AMOUNT:CURRENCY"),
        (("--api", "0:USD"), "above 0"),
        (("--api", "3:EUR"), "no price is converted"),
        (("--years", 0), "years"),
        (("--utilisation", 2), "utilisation"),
        (("--electricity", "1:USD"), "AMOUNT:CURRENCY:DATE"),
        (("--prices", "/no/such/file"), "cannot read /no/such/file"),
        (("--model", "llama"), "no step to price"),
        (("/no/such/folder",), "not a folder"),
    ],
)
def test_bad_input_is_one_line(memfloor, arguments, words):
    done = memfloor("cost", *arguments)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert words in done.err
