"""The page's charts: their numbers, what plotly makes of them, and that nothing from a record becomes markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from memfloor.record import StepTrace, TracedKernel
from memfloor.report.breakdown import entries_of
from memfloor.report.gantt import gantt
from memfloor.report.interactive import Chart, plain
from memfloor.report.ledger import make_ledger
from memfloor.report.page import render
from memfloor.report.waterfall import waterfall

PLOTLY = get_plotlyjs()
HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>%{y}"
TIMES = {"gemm": (0.0, 5.0), "attend": (4.0, 3.0), "norm": (9.0, 0.5)}
ROLES = {"gemm": "weights", "attend": "attention", "norm": "elementwise"}


@pytest.fixture
def traced(anatomy_of):
    """Return a maker of anatomies of three kernels, in microseconds, the first two overlapping."""

    def make(step_us=12.0, name="gemm"):
        kernels = [
            TracedKernel(
                name=name if kernel == "gemm" else kernel,
                op=f"aten::{kernel}",
                layer=1 if kernel == "attend" else None,
                role=ROLES[kernel],
                read_bytes=4_000_000 if kernel == "gemm" else 0,
                start_seconds=(1e-6 * start,),
                seconds=(1e-6 * long,),
                launch_seconds=(1e-6 * (start - 6),),
            )
            for kernel, (start, long) in TIMES.items()
        ]
        trace = StepTrace(
            tool="t",
            device="cuda",
            step_seconds=(9.5e-6,),
            lead_seconds=(7e-6,),
            kernels=kernels,
            launches={},
            labelled="modules",
        )
        return anatomy_of(1e-6 * step_us, trace, 3e-6, twin_seconds=(1e-5,))

    return make


class Page(HTMLParser):
    """Collect a page's elements, and the text of its scripts by type."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.outside, self.scripts, self._open = [], [], [], None
        self.feed(text.replace(PLOTLY, "plotly"))

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href") and value[:1] != "#"]
        self._open = named.get("type", "run") if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.scripts.append((self._open, data))

    def charts(self):
        return [json.loads(data) for kind, data in self.scripts if kind == "application/json"]


def test_the_bars_of_a_waterfall_add_up_to_the_timed_step(traced):
    anatomies = [traced(us) for us in (12.0, 30.0, 14.0, 20.0)]
    [bars] = waterfall(make_ledger(anatomies)).traces
    assert bars["y"][0::8] == ["floor", "step, timed"]
    # The mean of the two in the middle.
    assert sum(bars["x"][:-1]) == pytest.approx(0.017, abs=1e-5)
    assert bars["x"][-1] == pytest.approx(0.017)
    both = zip(entries_of(anatomies[2]).values(), entries_of(anatomies[3]).values(), strict=True)
    assert bars["x"][:-1] == pytest.approx([500 * sum(pair) for pair in both], abs=1e-6)
    ends = [begin + length for begin, length in zip(bars["base"], bars["x"], strict=True)]
    assert bars["base"][1:-1] == pytest.approx(ends[:-2], abs=1e-5)
    assert (bars["base"][0], bars["base"][-1]) == (0.0, 0.0)


def test_a_bars_label_names_share_interval_and_remedy(traced):
    [bars] = waterfall(make_ledger([traced(12.0), traced(14.0)])).traces
    told = dict(zip(bars["y"], bars["hovertext"], strict=True))
    for words in ("% of the gap", "95 % CI over 2 anatomies: ", "removed by one graph a step: launch=graph"):
        assert words in told["host and launch"]
    assert "of the gap" not in told["floor"]


def test_a_gantt_holds_every_kernel_where_it_ran(traced):
    chart = gantt(traced())
    drawn = {}
    for trace in chart.traces[:-1]:
        for row, length, base, label in zip(trace["y"], trace["x"], trace["base"], trace["hovertext"], strict=True):
            drawn[label.split("<b>")[1].split("</b>")[0]] = (base, length, row, trace["name"])
    rows = {"gemm": 0, "attend": 1, "norm": 0}
    assert drawn == {name: (*times, rows[name], ROLES[name]) for name, times in TIMES.items()}
    assert chart.traces[-1]["x"] == [-6.0, -2.0, 3.0]
    [gemm] = [trace["hovertext"][0] for trace in chart.traces if trace["name"] == "weights"]
    assert gemm == "<b>gemm</b><br>aten::gemm<br>5 us<br>4 MB, 800 GB/s"
    block, whole = chart.views
    assert block.start < 4 < 7 < block.end < 8
    assert whole.start < -6 < 9.5 < whole.end


def test_plotly_takes_the_charts(traced):
    for chart in (gantt(traced()), waterfall(make_ledger([traced()]))):
        figure = go.Figure(data=chart.traces, layout=chart.layout)
        assert len(figure.data) == len(chart.traces)


def test_the_page_carries_its_charts_and_the_script_once_and_names_the_traces(traced, tmp_path):
    anatomy = traced()
    (tmp_path / f"step-{anatomy.record_id}.trace.json.gz").write_bytes(b"")
    (tmp_path / "step-of-another.trace.json.gz").write_bytes(b"")
    text = render([], [], tmp_path, [anatomy])
    page = Page(text)
    assert len(page.charts()) == 2
    assert [data.strip()[:6] for kind, data in page.scripts if kind == "run"] == ["plotly", "// Dra"]
    assert text.count(PLOTLY) == 1
    assert page.outside == []
    assert "default-src 'none'" in text
    assert f"step-{anatomy.record_id}.trace.json.gz</code>" in text
    assert "step-of-another" not in text


def test_names_from_records_stay_text(traced):
    anatomy = traced(name=HOSTILE)
    cell = anatomy.cell.model_copy(update={"spec": anatomy.cell.spec.model_copy(update={"name": HOSTILE})})
    page = Page(render([], [], Path("somewhere"), [anatomy.model_copy(update={"cell": cell})]))
    assert "img" not in page.tags
    assert page.tags.count("script") == 4
    labels = [label for chart in page.charts() for trace in chart["traces"] for label in trace.get("hovertext", ())]
    shown = [label for label in labels if "onerror" in label]
    assert len(shown) == 1
    # The one tag is the label's own.
    assert shown[0].replace("<b>", "").replace("</b>", "").replace("<br>", "").count("<") == 0
    assert plain("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"


def test_an_embedded_chart_cannot_end_its_element():
    embedded = Chart([{"name": HOSTILE}], {}, 100, "").embedded
    assert "<" not in embedded
    assert json.loads(embedded)["traces"] == [{"name": HOSTILE}]


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Chart([{"x": [float("nan")]}], {}, 100, "").embedded
