"""The choice of the next token: greedy, by temperature, and within the nucleus."""

import numpy as np
import pytest

from memfloor.engine.decode import Decoder
from memfloor.errors import UsageError

STEPS = 40


@pytest.fixture
def decode(tiny, cpu_model):
    """Return a function that decodes with a way of sampling, or greedily."""
    model = cpu_model(tiny())

    def tokens(*sampling, steps_per_issue=1):
        model.sample_with(*(sampling or (0.0,)))
        decoder = Decoder(model, "graph", steps_per_issue)
        decoder.start(3, 0)
        for _ in range(STEPS // steps_per_issue):
            decoder.step()
        return decoder.tokens(0, STEPS)

    return tokens


@pytest.fixture
def draws(tiny, cpu_model):
    """Return a function that draws from one step's logits again and again, each time with another seed."""
    model = cpu_model(tiny(num_hidden_layers=1))
    step = model.native_step

    def draw(temperature, top_p, count):
        tokens = []
        for seed in range(count):
            model.sample_with(temperature, top_p, seed)
            model.start(3, 0)
            step.run_all(1)
            tokens.append(step.token)
        return np.bincount(tokens, minlength=model.spec.vocab_size), step.logits.astype(np.float64)

    return draw


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_at_temperature_zero_the_likeliest_token_is_taken(decode):
    assert decode(0.0, 0.5, 9) == decode()


@pytest.mark.parametrize("top_p", [1e-30, 1e-6])
def test_a_tiny_nucleus_is_the_likeliest_token(decode, top_p):
    assert decode(1.5, top_p, 9) == decode()


def test_a_temperature_near_zero_is_greedy(decode):
    assert decode(1e-6, 1.0, 9) == decode()


def test_the_same_seed_draws_the_same_tokens_however_many_steps_are_issued_at_a_time(decode):
    tokens = decode(1.0, 0.9, 9)
    assert decode(1.0, 0.9, 9) == tokens
    assert decode(1.0, 0.9, 9, steps_per_issue=8) == tokens


def test_another_seed_draws_other_tokens(decode):
    assert len({tuple(decode(1.0, 1.0, seed)) for seed in range(5)}) == 5
    assert tuple(decode()) not in {tuple(decode(1.0, 1.0, seed)) for seed in range(5)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(draws, temperature):
    count = 4000
    drawn, logits = draws(temperature, 1.0, count)
    expected = count * softmax(logits / temperature)
    # Tokens too seldom for the test are one class.
    often = expected >= 8
    seen, wanted = (np.append(numbers[often], numbers[~often].sum()) for numbers in (drawn, expected))
    chi_square = ((seen - wanted) ** 2 / wanted).sum()
    # Five standard deviations of the statistic.
    assert chi_square < often.sum() + 5 * np.sqrt(2 * often.sum())


@pytest.mark.parametrize("top_p", [0.3, 0.7, 0.95])
def test_no_token_is_drawn_outside_the_nucleus_and_every_likely_one_inside(draws, top_p):
    drawn, logits = draws(1.0, top_p, 2000)
    order = np.argsort(-logits)
    share = softmax(logits)[order]
    size = int(np.searchsorted(np.cumsum(share), top_p)) + 1
    assert drawn[order[size:]].sum() == 0
    # Likely enough to be missed once in 10^8 times.
    certain = share[:size] / share[:size].sum() * 2000 > 18
    assert (drawn[order[:size]][certain] > 0).all()


@pytest.mark.parametrize(
    ("temperature", "top_p", "message"),
    [
        (-1.0, 1.0, "temperature must be 0 or more and finite, not -1.0"),
        (float("inf"), 1.0, "temperature must be 0 or more and finite, not inf"),
        (float("nan"), 1.0, "temperature must be 0 or more and finite, not nan"),
        (1.0, 0.0, "top_p must be above 0 and at most 1, not 0.0"),
        (1.0, 1.5, "top_p must be above 0 and at most 1, not 1.5"),
        (1.0, float("nan"), "top_p must be above 0 and at most 1, not nan"),
    ],
)
def test_a_way_of_drawing_that_is_none_is_refused(tiny, cpu_model, temperature, top_p, message):
    with pytest.raises(UsageError, match=message):
        cpu_model(tiny()).sample_with(temperature, top_p)
