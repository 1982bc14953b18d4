"""The page and the figures on records of the fake child: what they show, and that they stand alone."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from memfloor.record import Store
from memfloor.report.figures import FIGURES
from memfloor.report.summary import summarise
from memfloor.report.tables import CELL_COLUMNS, cell_row

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collect what a page shows and what it would fetch, and check that its elements close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.fetched, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag in ("link", "image", "use")):
                self.fetched.append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture
def report(memfloor, tmp_path):
    """Return a function that reports on a folder and returns the page's text."""

    def make(folder):
        result = memfloor("report", folder, "-o", tmp_path / "page.html")
        assert result.status == 0, result.err
        assert result.out.strip() == f"report: {tmp_path / 'page.html'}"
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return make


@pytest.fixture
def copied(fake_records, tmp_path):
    return shutil.copytree(fake_records, tmp_path / "records")


def test_the_table_holds_every_cell(report, fake_records):
    cells = Page(report(fake_records)).cells
    summaries, _ = summarise(Store(fake_records).read()[0])
    assert tuple(cells[: len(CELL_COLUMNS)]) == CELL_COLUMNS
    for summary in summaries:
        row = cell_row(summary)
        assert any(cells[start : start + len(row)] == row for start in range(len(cells)))


def test_the_table_holds_invalid_cells_with_their_reasons(report, fake_records):
    cells = Page(report(fake_records)).cells
    assert "invalid: out of memory: the model needs 9 TB" in cells
    assert "invalid: this runtime needs another machine" in cells


def test_the_page_needs_nothing_but_itself(report, fake_records):
    text = report(fake_records)
    assert [address for address in Page(text).fetched if not address.startswith("#")] == []
    assert "<script" not in text
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    references = re.findall(r'(\S+)=["\']https?://', text)
    assert set(references) <= {"xmlns", "xmlns:xlink", "xmlns:cc", "xmlns:dc", "xmlns:rdf", "rdf:resource"}


def test_the_page_holds_every_figure(report, fake_records):
    text = report(fake_records)
    assert text.count("<svg") == text.count("</svg>") == len(FIGURES)
    assert "(published)" in text


def test_the_ids_of_two_figures_do_not_clash(report, fake_records):
    text = report(fake_records)
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', figure)) for figure in figures]
    assert all(clips)
    assert not set.intersection(*clips)


def test_the_page_says_how_to_repeat_it_and_where_it_was_taken(report, fake_records):
    texts = " ".join(Page(report(fake_records)).texts)
    assert "memfloor study --model" in texts
    assert "--context 64,128" in texts
    assert "--runs 2" in texts
    assert re.search(r"\b[0-9a-f]{40}\b|not run from a checkout", texts)


def test_the_page_reads_in_light_and_dark_and_on_a_narrow_window(report, fake_records):
    text = report(fake_records)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "prefers-color-scheme: dark" in text
    assert "max-width: 40rem" in text


def test_files_that_were_left_out_are_listed_with_their_reasons(report, copied):
    whole = next(copied.glob("*run000*.json"))
    (copied / "cut.json").write_bytes(whole.read_bytes()[:300])
    (copied / "newer.json").write_text(json.dumps({**json.loads(whole.read_text()), "schema_version": 99}))
    texts = " ".join(Page(report(copied)).texts)
    assert f"{copied / 'cut.json'}: not readable as JSON" in texts
    assert f"{copied / 'newer.json'}: schema version 99" in texts


def test_words_of_a_failure_cannot_become_markup(report, copied):
    failure = next(copied.glob("*failure*.json"))
    record = json.loads(failure.read_text())
    failure.write_text(json.dumps({**record, "last_words": "<script>alert(1)</script> & <b>"}))
    text = report(copied)
    assert "<script" not in text
    assert "invalid: out of memory: <script>alert(1)</script> & <b>" in Page(text).cells


def test_a_folder_of_failures_alone_still_gives_a_page(report, copied):
    for path in copied.glob("*run*.json"):
        path.unlink()
    text = report(copied)
    assert "No cell gave a time." in text
    assert "invalid: out of memory: the model needs 9 TB" in Page(text).cells


def test_an_empty_folder_gives_no_page_but_a_hint(memfloor, tmp_path):
    result = memfloor("report", tmp_path, "-o", tmp_path / "page.html")
    assert result.status == 2
    assert result.err == f"memfloor: {tmp_path} holds no records; take some with: memfloor study --out {tmp_path}\n"
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("number", FIGURES)
def test_a_figure_is_drawn_as_svg_and_png(memfloor, fake_records, tmp_path, number):
    result = memfloor("figure", number, fake_records, "-o", tmp_path / "figures")
    svg, png = (tmp_path / "figures" / f"figure-{number}{end}" for end in (".svg", ".png"))
    assert result.out.split("\n")[:2] == [f"figure {number}: {svg}", f"figure {number}: {png}"]
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("end", [".svg", ".png"])
def test_a_figure_is_drawn_into_the_one_file_that_is_named(memfloor, fake_records, tmp_path, end):
    memfloor("figure", "1", fake_records, "-o", tmp_path / "new" / f"mine{end}")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"mine{end}"]


@pytest.mark.parametrize("number", FIGURES)
def test_the_same_records_give_the_same_figure_byte_for_byte(memfloor, shell, fake_records, tmp_path, number):
    for run, name in ((shell, "first"), (memfloor, "second")):
        run("figure", number, fake_records, "-o", tmp_path / name)
    for end in (".svg", ".png"):
        first, second = ((tmp_path / name / f"figure-{number}{end}").read_bytes() for name in ("first", "second"))
        assert first == second


def test_a_folder_without_runs_gives_no_figure(memfloor, copied, tmp_path):
    for path in copied.glob("*run*.json"):
        path.unlink()
    result = memfloor("figure", "1", copied, "-o", tmp_path / "figures")
    assert result.status == 2
    assert result.err == f"memfloor: {copied} holds no runs to draw\n"
    assert not (tmp_path / "figures").exists()
