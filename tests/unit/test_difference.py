"""Two sets of records, cell by cell, with hand-counted ratios."""

import numpy as np
import pytest
from scipy import stats

from memfloor.report.difference import DIFFERENCE_COLUMNS, differences
from memfloor.stats import unpaired_ratio


def runs_of(make_run, medians, ceiling=1e9, **other):
    return [make_run((seconds,) * 3, ceiling, block, **other) for block, seconds in enumerate(medians)]


def test_a_ratio_without_blocks_has_welchs_interval():
    ours, theirs = [2.0, 2.2, 2.1, 1.9], [1.0, 1.1, 1.05]
    ratio = unpaired_ratio(ours, theirs)
    low, high = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    assert ratio.ci95 == pytest.approx((np.exp(low), np.exp(high)))
    assert ratio.value == pytest.approx(np.exp(np.mean(np.log(ours)) - np.mean(np.log(theirs))))
    assert unpaired_ratio([2.0], [1.0, 1.1]).ci95 is None
    with pytest.raises(ValueError, match="both sides"):
        unpaired_ratio([], [1.0])


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((0.0100, 0.0101, 0.0099), "equivalent"),
        ((0.0080, 0.0081, 0.0079), "faster"),
        ((0.0120, 0.0121, 0.0119), "slower"),
        ((0.0080, 0.0120, 0.0100), "unclear"),
        ((0.0080,), "unclear"),
    ],
)
def test_a_cell_is_judged_by_its_interval(make_run, after, verdict):
    before = runs_of(make_run, (0.0100, 0.0101, 0.0099))
    (found,) = differences(before, runs_of(make_run, after), 0.05).cells
    assert found.word == verdict
    assert found.ratio.value == pytest.approx(0.01 / np.exp(np.mean(np.log(after))), rel=1e-3)
    assert len(found.row()) == len(DIFFERENCE_COLUMNS)
    assert found.to_json()["runs"] == [3, len(after)]


def test_a_change_of_bandwidth_is_no_change_of_the_cell(make_run):
    before, after = runs_of(make_run, (0.010, 0.0101), 1e9), runs_of(make_run, (0.005, 0.00505), 2e9)
    (found,) = differences(before, after, 0.02).cells
    assert found.ratio.value == pytest.approx(2.0)
    assert found.verdict.startswith("unclear: bandwidth differed")
    assert found.equal_bandwidth.ratio.value == pytest.approx(1.0)


def test_cells_devices_and_protocols_are_not_mixed_and_lost_ones_are_named(make_run, make_cell):
    same, engine = make_cell(), make_cell(runtime="engine")
    before = [*runs_of(make_run, (1.0, 1.1), cell=same), *runs_of(make_run, (1.0, 1.1), cell=engine)]
    after = [*runs_of(make_run, (1.0, 1.1), cell=same), *runs_of(make_run, (1.0,), cell=same, device_name="Another")]
    found = differences(before, after, 0.02)
    assert len(found.cells) == 1
    assert found.only_before == ("tiny engine at 512 on Some CPU",)
    assert found.only_after == ("tiny hf-eager at 512 on Another",)
    assert found.having(("slower",)) == []


def test_other_software_is_said_and_another_commit_is_not(make_run):
    before = runs_of(make_run, (1.0, 1.1))
    for commit, packages, said in (("b", {"torch": "1"}, False), ("a", {"torch": "2"}, True)):
        after = [
            run.model_copy(
                update={"environment": run.environment.model_copy(update={"git_commit": commit, "packages": packages})}
            )
            for run in before
        ]
        changed = [
            run.model_copy(update={"environment": run.environment.model_copy(update={"packages": {"torch": "1"}})})
            for run in before
        ]
        (found,) = differences(changed, after, 0.02).cells
        assert bool(found.environment) == said
