import math

import numpy as np
import pytest

from memfloor.errors import UsageError
from memfloor.experiments.logits import compare_logits

# Next tokens of probability 1/4 and 3/4, where the path has 1/2 each.
REFERENCE = np.array([[0.0, math.log(3)]] * 2, np.float32)
FOUND = np.zeros((2, 2), np.float32)


def test_each_token_gives_error_agreement_divergence_and_surprise():
    errors = compare_logits(FOUND, REFERENCE, [0, 1])
    assert errors.relative_errors == pytest.approx((1.0, 1.0))
    assert errors.agrees == (False, False)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert errors.kl_nats == pytest.approx((expected, expected))
    # Only the token that follows the first is told by logits.
    assert errors.surprise_nats == pytest.approx((math.log(2),))
    assert errors.reference_surprise_nats == pytest.approx((math.log(4 / 3),))


def test_a_reference_has_no_error_against_itself():
    errors = compare_logits(REFERENCE, REFERENCE, [1, 0])
    assert errors.relative_errors == errors.kl_nats == (0.0, 0.0)
    assert errors.agrees == (True, True)
    assert errors.surprise_nats == errors.reference_surprise_nats == pytest.approx((math.log(4),))


@pytest.mark.parametrize(
    ("found", "words"),
    [(np.zeros((2, 3), np.float32), r"of shape \(2, 3\), not \(2, 2\)"), (FOUND + np.nan, "not all finite")],
)
def test_logits_of_another_shape_or_without_numbers_are_refused(found, words):
    with pytest.raises(UsageError, match=words):
        compare_logits(found, REFERENCE, [0, 1])
