"""The web view over records of the fake child: what it shows, what it refuses, and how it is started."""

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from urllib.request import urlopen

import chromium
import pytest
from fastapi.testclient import TestClient

from memfloor.record import Run, Store
from memfloor.report.difference import differences
from memfloor.report.summary import summarise
from memfloor.report.tables import cell_row
from memfloor.serve.app import create_app
from memfloor.serve.library import Library
from memfloor.serve.listen import address_of, allowed_hosts, is_loopback, open_socket

HOST = "127.0.0.1"
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")


@pytest.fixture
def folder(fake_records, tmp_path):
    """Return a folder with two folders of the same records, those of the second under identities of their own."""
    shutil.copytree(fake_records, tmp_path / "served" / "first")
    second = Store(tmp_path / "served" / "second")
    second.open_for_writing()
    for record in Store(fake_records).contents().every:
        second.add(record.model_copy(update={"record_id": record.record_id[::-1]}))
    return tmp_path / "served"


@pytest.fixture
def client(folder):
    with TestClient(create_app(Library(folder), [HOST]), base_url=f"http://{HOST}") as client:
        yield client


def cells_of(client):
    return list(dict.fromkeys(re.findall(r'href="/cells/([0-9a-f]{16})"', client.get("/cells").text)))


def test_the_cells_are_those_of_the_report(client, folder):
    text = client.get("/cells?folder=first").text
    summaries, invalid = summarise(Store(folder / "first").contents().runs)
    assert len(summaries) == 2
    for summary in summaries:
        for value in cell_row(summary):
            assert f">{value}<" in text
    assert all(cell.reason in text for cell in invalid)
    assert len(cells_of(client)) == 4


@pytest.mark.parametrize("query", ["context=64", "kind=failure", "folder=second&kind=run", "device=", "weights=bf16"])
def test_the_list_holds_what_was_chosen(client, folder, query):
    chosen = dict(part.split("=") for part in query.split("&"))
    every = [
        record
        for name in ("first", "second")
        for record in Store(folder / name).contents().every
        if chosen.get("folder", name) == name
        and chosen.get("kind", record.kind) == record.kind
        and chosen.get("context", str(record.cell.workload.context_len)) == str(record.cell.workload.context_len)
    ]
    shown = re.findall(r'href="/records/([0-9a-f]{32})"', client.get(f"/records?{query}").text)
    assert sorted(shown) == sorted(record.record_id for record in every) != []
    lines = client.get(f"/download.jsonl?{query}").text.splitlines()
    assert sorted(json.loads(line)["record_id"] for line in lines) == sorted(shown)


def test_every_record_opens_and_comes_as_it_lies_on_disk(client, folder):
    for path in folder.rglob("*.json"):
        record = json.loads(path.read_text())
        address = f"/records/{record['record_id']}"
        page = client.get(address)
        assert page.status_code == 200
        assert page.text.count("<svg") == (1 if record["kind"] == "run" else 0)
        assert record["session_id"] in page.text
        file = client.get(f"{address}/file")
        assert file.content == client.get(f"{address}/raw").content == path.read_bytes()
        assert path.name in file.headers["content-disposition"].replace("%3D", "=")


def test_a_zip_is_a_store_of_its_own(client, folder, tmp_path):
    zipfile.ZipFile(io.BytesIO(client.get("/download.zip?folder=second").content)).extractall(tmp_path / "out")
    found = Store(tmp_path / "out").contents()
    assert list(found.every) == list(Store(folder / "second").contents().every)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]


def test_two_folders_are_compared_as_diff_does(client, folder):
    found = differences(Store(folder / "first").contents().runs, Store(folder / "second").contents().runs, 0.02)
    text = client.get("/compare/folders?before=first&after=second").text
    assert len(found.cells) == 2
    for item in found.cells:
        assert all(f">{value}<" in text for value in item.row())


def test_two_cells_are_compared_and_one_is_opened(client):
    before, _, _, after = cells_of(client)
    page = client.get(f"/compare/cells?before={before}&after={after}&margin=0.1")
    assert page.status_code == 200
    assert ">speed-up<" in page.text
    assert "10.0 %" in page.text
    assert client.get(f"/cells/{before}").text.count('href="/records/') == 2


def test_the_report_of_a_folder_is_the_report(client):
    page = client.get("/report?folder=first")
    assert "How far from the memory floor?" in page.text
    assert "Figure 1." in page.text


def test_a_store_that_grows_shows_its_new_records(client, folder):
    run = next(record for record in Store(folder / "first").contents().every if isinstance(record, Run))
    address = f"/records/{'a' * 32}"
    assert client.get(address).status_code == 404
    Store(folder / "first").add(run.model_copy(update={"record_id": "a" * 32, "taken_at": "2030-01-01T00:00:00+00:00"}))
    (folder / "cut.json").write_text("{")
    assert "2030-01-01 00:00:00" in client.get(address).text
    assert "2030-01-01" in client.get("/").text
    assert "not readable as JSON" in client.get("/problems").text


@pytest.mark.parametrize(
    "address",
    [
        "/../secret.json",
        "/%2e%2e/secret.json",
        "/records/../../secret.json",
        "/records/..%2f..%2fsecret.json",
        "/records/%2e%2e%2fsecret.json/raw",
        "/records/SECRET/file",
        "/records/SECRET/raw",
        "/report?folder=..",
        "/report?folder=SECRET",
        "/report?folder=first/../..",
        "/cells?folder=../",
        "/download.zip?folder=..",
        "/compare/folders?before=first&after=..",
        "/records/first%00",
    ],
)
def test_nothing_outside_the_folder_can_be_reached(client, folder, address):
    secret = folder.parent / "secret.json"
    run = next(path for path in (folder / "first").glob("*run000*.json"))
    secret.write_text(run.read_text().replace('"hf-eager"', '"the-secret"'))
    answer = client.get(address.replace("SECRET", str(secret)))
    assert answer.status_code in (400, 404)
    assert "the-secret" not in answer.text


def test_only_reading_is_answered(client):
    for address in ("/", "/cells", "/records", f"/records/{'a' * 32}/file", "/download.zip", "/report"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert client.request(method, address).status_code == 405
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    for address in ("/docs", "/openapi.json", "/redoc"):
        assert client.get(address).status_code == 404


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/records?device=abacus", "unknown device &#39;abacus&#39;; allowed: "),
        ("/records?page=0", "there is no page 0; the last one is 1"),
        ("/records?page=two", "page: "),
        ("/cells?order=colour", "unknown order &#39;colour&#39;"),
        ("/compare/cells?before=x", "choose one cell"),
        ("/compare/folders?before=first&after=second&margin=2", "margin: "),
        ("/records?device=<script>", "&lt;script&gt;"),
    ],
)
def test_bad_input_is_one_line_on_a_page(client, address, words):
    answer = client.get(address)
    assert answer.status_code == 400
    assert words in answer.text
    assert "<script" not in answer.text


def test_another_name_is_refused_and_pages_may_load_nothing(client):
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400
    headers = client.get("/").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "script-src" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_who_can_reach_an_address():
    with open_socket(HOST, 0) as own, open_socket("0.0.0.0", 0) as every:
        assert is_loopback(own)
        assert ADDRESS.fullmatch(address_of(own))
        assert ADDRESS.fullmatch(address_of(every))
        assert not is_loopback(every)
        assert "rebound.example" not in allowed_hosts(every)
        assert {"localhost", "box.lan"} <= set(allowed_hosts(own, ["Box.lan"]))


def test_bad_options_are_one_line(memfloor, folder, monkeypatch):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = memfloor("serve", folder, "--port", port)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert f"cannot listen on {HOST}, port {port}: Address already in use" in done.err
    for arguments, words in [
        (("/no/such",), "/no/such is not a folder with records"),
        ((folder, "--port", 70000), "port must be from 0 to 65535, not 70000"),
        ((folder, "--host", "no such host"), "cannot listen on no such host"),
    ]:
        done = memfloor("serve", *arguments)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert words in done.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = memfloor("serve", folder, "--port", 0)
    assert (done.status, done.err) == (2, "memfloor: uvicorn is not installed; pip install 'memfloor[serve]'\n")


@contextmanager
def served(folder, *arguments):
    """Give the address of the command serving a folder, and the process."""
    # A process that a shell starts in the background inherits that interrupts are ignored.
    driver = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from memfloor.cli import main; main()"
    )
    command = [sys.executable, "-c", driver, "serve", str(folder), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield ADDRESS.search(server.stdout.readline())[0], server
        finally:
            server.kill()


def test_others_are_let_in_only_with_a_warning_and_it_ends_quietly(folder):
    with served(folder, "--host", "0.0.0.0") as (address, server):
        with urlopen(address) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert (
            server.stderr.read()
            == f"memfloor: 0.0.0.0 can be reached by others, who can read every record of {folder}\n"
        )


@pytest.mark.skipif(chromium.find_chromium() is None, reason="no Chromium on the path")
def test_in_a_browser_a_reader_filters_opens_a_run_and_compares(folder, tmp_path):
    with served(folder) as (address, _), chromium.Browser(tmp_path / "profile") as browser:
        browser.open(address, "12 records in 2 folders")
        browser.run("document.querySelector('select[name=kind]').value = 'run'")
        browser.run("document.querySelector('form.filter button').click()")
        browser.wait_for("8 of 12 records")
        browser.run("[...document.links].find(link => link.textContent == 'Records').click()")
        browser.wait_for("8 records, oldest first")
        browser.run("document.querySelector('td a').click()")
        browser.wait_for("Path really taken")
        assert browser.run("document.querySelector('figure svg').getBoundingClientRect().width > 300")
        assert "aten::mm" in browser.run("document.body.innerText")
        browser.open(f"{address}cells", "4 cells with times")
        browser.run("document.querySelectorAll('input[name=before]')[0].click()")
        browser.run("document.querySelectorAll('input[name=after]')[3].click()")
        browser.run(
            "[...document.querySelectorAll('button')].find(it => it.textContent == 'Compare two cells').click()"
        )
        browser.wait_for("speed-up")
        browser.open(f"{address}report?folder=first", "How far from the memory floor?")
        assert {request for request in browser.requests if not request.startswith(address)} <= {"about:blank"}
        assert [words for words in browser.problems if "favicon" not in words] == []
