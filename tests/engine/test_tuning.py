"""Tuned launch shapes serve what they were tuned on and nothing else, and only where they are asked for."""

import json
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
import torch
import triton

from memfloor.cache import cache_folder, sources_digest
from memfloor.engine.cuda.backend import cell_reason, launch_shapes
from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.launch_shapes import RowShape
from memfloor.engine.cuda.tuning import TunedHow, TunedOn, load_shapes, save_shapes
from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.spec import Workload, load_model

H200 = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
SPEC = load_model("qwen2.5-7b")
DEFAULTS = default_shapes(SPEC, H200.multi_processor_count)
HOW = TunedHow("570.1", 2048, 4, 3.5e-3, 3.4e-3)
TUNED = replace(DEFAULTS, qkv=RowShape(block_n=16, warps=8, registers=128))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "memfloor" / "launch-shapes"


@pytest.fixture
def tuned_on():
    return TunedOn.of(SPEC, Workload.of(2048), H200, triton.__version__)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: H200)


def cell(**options):
    return Cell(spec=SPEC, workload=Workload.of(2048), runtime="engine", device="cuda", options=options)


def test_shapes_come_back_as_they_were_saved_and_the_newest_wins(tuned_on, cache):
    assert load_shapes(tuned_on) is None
    assert save_shapes(tuned_on, DEFAULTS, HOW).parent == cache == cache_folder("launch-shapes")
    path = save_shapes(tuned_on, TUNED, HOW)
    kept, content = load_shapes(tuned_on), json.loads(path.read_text())
    assert kept == TUNED
    assert kept.origin == f"tuned {content['tuned_at']}"
    assert content["how"] == asdict(HOW)
    assert [item.name for item in cache.iterdir()] == [path.name]


@pytest.mark.parametrize("field", [field.name for field in fields(TunedOn)])
def test_whatever_differs_it_has_no_shapes(tuned_on, field):
    save_shapes(tuned_on, TUNED, HOW)
    value = getattr(tuned_on, field)
    assert load_shapes(replace(tuned_on, **{field: value + 1 if isinstance(value, int) else f"{value}x"})) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:40], "cannot be read"),
        (lambda text: text.replace('"sm_count": 132', '"sm_count": 78'), "tuned on something else than its name says"),
        (lambda text: text.replace('"block_s"', '"block_slots"'), "attention has block_slots, max_splits, warps"),
        (lambda text: text.replace('"o_proj"', '"o"'), "holds no launch shapes of this memfloor: KeyError"),
        (lambda text: text.replace('"block_n": 16', '"block_n": "many"'), "holds no launch shapes: block_n"),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(tuned_on, damage, words):
    path = save_shapes(tuned_on, TUNED, HOW)
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    with pytest.raises(UsageError, match=words) as refusal:
        load_shapes(tuned_on)
    assert str(path) in str(refusal.value)
    assert "tune again" in str(refusal.value)


def test_a_cache_that_cannot_be_written_is_refused(tuned_on, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        save_shapes(tuned_on, TUNED, HOW)


@pytest.mark.usefixtures("gpu")
def test_a_cache_changes_nothing_until_it_is_asked_for(tuned_on):
    save_shapes(tuned_on, TUNED, HOW)
    assert launch_shapes(cell()) == DEFAULTS
    assert launch_shapes(cell(shapes="default")) == DEFAULTS
    assert launch_shapes(cell(shapes="tuned")) == TUNED
    assert launch_shapes(cell()).origin == "default"
    assert launch_shapes(cell(shapes="tuned")).origin.startswith("tuned 20")
    assert cell(shapes="tuned").key != cell().key


@pytest.mark.usefixtures("gpu")
def test_a_cell_that_asks_for_shapes_nobody_tuned_is_refused_with_the_command(tuned_on):
    asked = cell(shapes="tuned")
    assert cell_reason(cell()) is None
    assert cell_reason(asked) == (
        f"no launch shapes were tuned for qwen2.5-7b on NVIDIA H200 with triton {triton.__version__} and these "
        "kernels; run memfloor tune qwen2.5-7b --weights bf16 --head bf16 --kv bf16"
    )
    save_shapes(tuned_on, TUNED, HOW)
    assert cell_reason(asked) is None
    tuned_on.path.write_text("{")
    assert "cannot be read" in cell_reason(asked)


def test_other_sources_of_the_kernels_have_another_digest(tmp_path):
    (tmp_path / "rows.py").write_text("a = 1")
    before = sources_digest(tmp_path.rglob("*.py"))
    assert before == sources_digest(tmp_path.rglob("*.py"))
    (tmp_path / "rows.py").write_text("a = 2")
    assert sources_digest(tmp_path.rglob("*.py")) != before
