import pytest

from memfloor.report.paper import dollars_per_million_tokens, findings, published_cells

FOUND = {finding.name: finding for finding in findings()}


def test_every_published_cell_implies_a_step_per_convention():
    cells = published_cells()
    assert len(cells) == 13
    for cell in cells:
        steps = cell.implied_step_seconds
        assert steps["blocks"] < steps["streamed"] < steps["paper"]


def test_the_h100_fraction_implies_the_matrix_session():
    numbers = FOUND["fractions of other sessions"].numbers
    assert numbers["h100_implied_seconds"] == pytest.approx(16.97e-3, abs=5e-6)
    assert numbers["l4_implied_seconds"] == pytest.approx(63.16e-3, abs=5e-6)


def test_paper_bytes_give_other_fractions_than_published():
    numbers = FOUND["no single byte convention"].numbers
    assert numbers["l4_paper"] == pytest.approx(0.821, abs=5e-4)
    assert numbers["h100_paper"] == pytest.approx(0.309, abs=5e-4)


def test_graphs_remove_about_thirty_percent_of_the_gap():
    numbers = FOUND["launch is not the missing term alone"].numbers
    assert numbers["removed_seconds"] == pytest.approx(3.052e-3)
    assert 0.28 < numbers["share_of_gap"] < 0.31
    assert numbers["graphed_over_paper_floor"] == pytest.approx(2.57, abs=0.01)


def test_figure_four_is_below_every_floor():
    numbers = FOUND["Figure 4 is no measurement"].numbers
    assert numbers["compute_seconds"] < numbers["lowest_floor_seconds"]
    assert numbers["launch_seconds"] == pytest.approx(8.43e-3)


def test_gptq_beats_the_papers_own_bytes():
    numbers = FOUND["GPTQ is faster than its bytes"].numbers
    assert numbers["streamed_fraction"] == pytest.approx(0.90, abs=0.005)
    assert numbers["paper_fraction"] == pytest.approx(1.11, abs=0.005)
    assert numbers["traffic_ratio"] == pytest.approx(3.05, abs=0.005)
    assert numbers["speedup"] == pytest.approx(3.59, abs=0.005)


def test_costs_are_those_of_the_prices_and_no_pair_gives_the_claim():
    costs = dollars_per_million_tokens()
    assert costs["H100 eager"] == pytest.approx(16.27, abs=0.005)
    assert costs["H100 graphed"] == pytest.approx(12.92, abs=0.005)
    assert costs["A100 eager"] == pytest.approx(16.8, abs=0.05)
    assert costs["L4 GPTQ"] == pytest.approx(3.85, abs=0.005)
    assert FOUND["no pair is 7.9 times cheaper"].numbers["nearest_ratio"] < 5


def test_every_sentence_shows_its_numbers():
    for finding in FOUND.values():
        assert any(character.isdigit() for character in finding.sentence)
        assert finding.numbers
