import json

import pytest

from memfloor.cli.ab import _null

SHORT = ("--context", 64, "--runs", 2, "--timed-steps", 4, "--device", "cpu", "--threads", 1)


@pytest.mark.parametrize(
    ("arms", "isolation"),
    [
        ((), "isolated"),
        (("--baseline", "hf-eager", "--candidate", "engine"), "confounded"),
    ],
)
def test_a_comparison_ends_with_ratio_verdict_and_isolation(shell, tiny_model, tmp_path, arms, isolation):
    null = ("--expect-null-below", 1.5)
    done = shell("ab", tiny_model, *arms, *null, *SHORT, "--out", tmp_path, "--json")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert answer["blocks"] == 2
    assert answer["ci95"][0] <= answer["ratio"] <= answer["ci95"][1]
    assert answer["verdict"] in ("faster", "slower", "equivalent", "unclear")
    assert answer["null"] in ("holds", "falsified", "undecided")
    # Times of a tiny model's kernels are noise; the kernels themselves are not.
    if isolation == "confounded":
        assert answer["isolation"] == "confounded"
    assert any(item.startswith("kernels:") for item in answer["confounders"]) == (isolation == "confounded")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baseline", "engine", "--candidate", "engine"), "must differ"),
        (("--margin", 0), "margin must be above 0"),
        (("--expect-null-below", 0.9), "expect-null-below must be above 1"),
        (("--candidate", "engine,launch=slow"), "unknown engine launch 'slow'"),
        (("--candidate", "hf-static,launch=graph", "--runs", 1), "no block has a run of both arms: launch=graph needs"),
    ],
)
def test_bad_input_is_one_line(shell, tiny_model, tmp_path, arguments, words):
    done = shell(
        "ab", tiny_model, "--device", "cpu", "--context", 64, "--timed-steps", 2, *arguments, "--out", tmp_path
    )
    assert done.status == 2
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("ci95", "below", "expected"),
    [
        ((1.0, 1.02), 1.05, "holds"),
        ((1.0, 1.1), 1.05, "undecided"),
        ((1.06, 1.1), 1.05, "falsified"),
        (None, 1.05, "undecided"),
        ((1.0, 1.1), None, None),
    ],
)
def test_a_null_said_before_is_decided_by_the_interval(ci95, below, expected):
    assert _null(ci95, below) == expected


def test_several_contexts_are_refused(shell, tiny_model, tmp_path):
    done = shell("ab", tiny_model, "--device", "cpu", "--context", "64,128", "--out", tmp_path)
    assert done.status == 2
    assert "a comparison is at one context, not at 2" in done.err
