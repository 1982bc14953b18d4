import pytest

from memfloor.report.figures import FIGURES, figure_svg
from memfloor.report.summary import summarise


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_the_same_records_is_the_same_file(name, make_run, make_cell):
    summaries, _ = summarise([make_run(), make_run(block=1), make_run(cell=make_cell(2048))])
    assert figure_svg(FIGURES[name](summaries)) == figure_svg(FIGURES[name](summaries))


def test_the_ladder_shows_measured_and_published_cells(make_run):
    summaries, _ = summarise([make_run(device_name="NVIDIA H200"), make_run(block=1, device_name="NVIDIA H200")])
    text = figure_svg(FIGURES["1"](summaries))
    assert "NVIDIA H200" in text
    assert "l4 (published)" in text
    assert "27 % of peak" in text


def test_the_ladder_says_ceiling_where_no_peak_is_known(make_run):
    summaries, _ = summarise([make_run()])
    assert "% of ceiling" in figure_svg(FIGURES["1"](summaries))
