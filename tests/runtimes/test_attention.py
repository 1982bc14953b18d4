import importlib.machinery
import sys
import types

import pytest
import torch

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.report.attention import OUTPUT_TOLERANCE
from memfloor.runtimes import BACKENDS, DecodeRequest, check_options, find_attention, system_of
from memfloor.runtimes.attention import flash_attention_3
from memfloor.runtimes.attention.flash_attention_3 import arguments_of
from memfloor.runtimes.attention.flashinfer import PAGE_TOKENS, page_table, paged
from memfloor.runtimes.attention.layers import Layer, make_layers, output_error, reference
from memfloor.runtimes.census import large_outputs
from memfloor.spec import Workload

# Query heads, KV heads, head_dim and context: a group of seven, Qwen3's wider heads, and no grouping; no context is a
# whole number of blocks or pages.
SHAPES = {"group of 7": (14, 2, 64, 101), "wide heads": (4, 2, 128, 37), "no group": (2, 2, 16, 50)}
ON_CPU = (
    ("sdpa", {}),
    ("sdpa", {"gqa": "rows"}),
    ("sdpa", {"backend": "flash"}),
    ("sdpa", {"backend": "math"}),
    ("engine", {}),
)
CUDA_ONLY = ("flash-attention-2", "flash-attention-3", "flashinfer")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def request_of(tiny):
    """Return a function that asks a backend for the attention of a tiny model."""

    def make(
        name, /, shape="group of 7", batch=1, device="cpu", family="qwen3", kv="bf16", spec=(), threads=1, **options
    ):
        heads, kv_heads, head_dim, context_len = SHAPES[shape]
        sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
        cell = Cell(
            spec=tiny(family, **{**sizes, **dict(spec)}),
            workload=Workload.of(context_len, batch, kv=kv),
            runtime=name,
            options=options,
            device=device,
            threads=threads,
            part="attention",
        )
        return DecodeRequest(cell=cell, start_len=1, max_steps=8, seed=3)

    return make


@pytest.fixture
def prepared(request_of, monkeypatch):
    """Return a function that prepares a backend, torch's pinned back ends and threads put back after the test."""
    threads = torch.get_num_threads()
    yield lambda *asked, **more: _prepare(request_of(*asked, **more))
    torch.set_num_threads(threads)
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(True)


def _prepare(request):
    system = system_of(request.cell)(request)
    system.prepare()
    return system


def attend(query, keys, values):
    """Return in bf16 what attention libraries promise for a query [B, 1, H, D] over a cache [B, S, Hkv, D]."""
    layer = Layer(query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
    return reference(layer)[:, None].to(torch.bfloat16)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("backend", "options"), ON_CPU, ids=lambda value: str(value))
def test_a_backend_gives_what_float32_gives_after_any_number_of_steps(prepared, backend, options, shape):
    system = prepared(backend, shape, **options)
    for _ in range(3):
        system.step()
    path = system.observed_path()
    assert 0 < path.output_error.relative_norm < OUTPUT_TOLERANCE
    assert path.output_error.max_abs > 0
    assert path.operators


@pytest.mark.parametrize(("backend", "options"), ON_CPU[:-1], ids=lambda value: str(value))
def test_two_sequences_attend_each_to_their_own(prepared, backend, options):
    path = prepared(backend, batch=2, **options).observed_path()
    assert path.output_error.relative_norm < OUTPUT_TOLERANCE


def test_compiled_attention_is_compiled_before_its_first_step(prepared):
    torch._dynamo.reset()
    system = prepared("flex")
    for _ in range(2):
        system.step()
    path = system.observed_path()
    assert path.output_error.relative_norm < OUTPUT_TOLERANCE
    assert path.facts["recompiles_after_warm_up"] == "0"
    assert any("flex_attention" in name for name in path.operators)


@pytest.mark.parametrize(
    ("options", "ran"), [({}, "flash"), ({"backend": "flash"}, "flash"), ({"backend": "math"}, "math")]
)
def test_the_back_end_that_ran_is_read_off_its_operators(prepared, options, ran):
    facts = prepared("sdpa", **options).observed_path().facts
    assert facts["asked"] == options.get("backend", "default")
    assert facts["ran"] == ran
    # The unfused one casts all keys and values to float32; the fused one reads them where they lie.
    assert (facts["kv_copies"] != "none") == (ran == "math")


def test_layers_that_slide_attend_to_their_window(prepared):
    window = {"sliding_window": 24, "max_window_layers": 1, "use_sliding_window": True}
    for backend in ("sdpa", "engine"):
        system = prepared(backend, family="qwen2", spec=window)
        assert system.observed_path().output_error.relative_norm < OUTPUT_TOLERANCE
    sdpa = prepared("sdpa", family="qwen2", spec=window)
    assert [layer.keys.shape[2] for layer in sdpa.layers] == [101, 24]


def test_the_engine_reads_the_window_of_a_layer_alone(prepared):
    system = prepared("engine", family="mistral", spec={"sliding_window": 24})
    assert system.layers[0].keys.shape[2] == 24
    assert system.observed_path().output_error.relative_norm < OUTPUT_TOLERANCE


@pytest.mark.skipif(len(allowed_cpus()) < 2, reason="needs two processors")
def test_the_engine_joins_what_two_threads_have_of_one_head(prepared):
    system = prepared("engine", family="llama", spec={"num_key_value_heads": 1}, threads=2)
    system.step()
    path = system.observed_path()
    assert path.facts["pool_threads"] == "2"
    assert path.output_error.relative_norm < OUTPUT_TOLERANCE


def test_no_two_layers_share_a_buffer_and_every_backend_has_the_same_numbers(request_of):
    cell = request_of("sdpa").cell
    plain, other_order = (list(make_layers(cell, 3, tokens_first=order)) for order in (False, True))
    assert len({layer.keys.data_ptr() for layer in plain}) == cell.spec.num_hidden_layers
    assert not torch.equal(plain[0].keys, plain[1].keys)
    for ours, theirs in zip(plain, other_order, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert theirs.keys.transpose(1, 2).is_contiguous()


def test_numbers_that_are_not_finite_are_no_result(request_of):
    layer = next(make_layers(request_of("sdpa").cell, 0))
    output = reference(layer)
    assert output_error(output, layer).max_abs == 0
    output[0, 0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        output_error(output, layer)


def test_only_new_memory_of_some_size_counts_as_written():
    source = torch.zeros(100)
    counted = large_outputs(lambda: (source.view(10, 10), source[:10].clone(), source.clone(), source.add_(1)), 400)
    assert counted == {"aten::clone": 1}


def test_a_pinned_back_end_that_torch_does_not_have_is_refused_in_its_own_words(prepared):
    with pytest.raises(UsageError, match=r"^No viable backend for scaled_dot_product_attention"):
        prepared("sdpa", backend="cudnn")


def test_buffers_that_do_not_fit_are_refused_before_they_are_allocated(request_of, monkeypatch):
    monkeypatch.setattr("memfloor.runtimes.memory.free_bytes", lambda device: 10**9)
    with pytest.raises(MemoryError, match="for the KV buffers of all layers"):
        _prepare(request_of("sdpa"))


@pytest.mark.parametrize(
    ("backend", "asked", "words"),
    [
        *((name, {}, f"{name} runs on cuda, not on cpu") for name in CUDA_ONLY),
        ("sdpa", {"launch": "graph"}, "launch=graph needs a CUDA GPU"),
        ("sdpa", {"kv": "int8"}, "KV cache in bf16, not int8"),
        ("engine", {"batch": 2}, "batch 2 is not 1"),
        ("engine", {"pdl": "off"}, "option pdl is not for device cpu"),
        ("engine", {"launch": "graph"}, "launch=graph needs a CUDA GPU"),
    ],
)
def test_what_cannot_run_says_why(request_of, backend, asked, words):
    cell = request_of(backend, **asked).cell
    assert words in find_attention(backend).unavailable_reason(cell)


@pytest.mark.parametrize("backend", CUDA_ONLY)
def test_a_missing_package_is_named_with_what_installs_it(backend, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "flash" in name else object())
    monkeypatch.setattr(flash_attention_3, "find_spec", lambda name: None)
    reason = find_attention(backend).unavailable_reason()
    assert "is not installed" in reason
    assert "pip install" in reason


@each_backend
def test_options_are_checked_by_name_and_value(backend):
    system = find_attention(backend)
    assert system.name == backend
    assert system.summary
    for option, values in system.options.items():
        check_options(system, {option: values[-1]})
        with pytest.raises(UsageError, match=f"unknown {backend} {option} 'nonsense'"):
            check_options(system, {option: "nonsense"})


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown attention backend 'triton'; allowed: engine, flash-attention-2"):
        find_attention("triton")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("package", ["flash_attn", "flash_attn_interface"])
def test_flash_attention_is_called_over_the_cache_as_it_lies(prepared, monkeypatch, package, batch, shape):
    seen = []

    def flash_attn_with_kvcache(query, keys, values, cache_seqlens, causal, num_splits=0):
        assert keys.is_contiguous()
        assert values.is_contiguous()
        assert cache_seqlens.tolist() == [keys.shape[1]] * batch
        assert cache_seqlens.dtype == torch.int32
        seen.append(keys.data_ptr())
        return attend(query, keys, values)

    install(monkeypatch, package, flash_attn_with_kvcache=flash_attn_with_kvcache)
    backend = {"flash_attn": "flash-attention-2", "flash_attn_interface": "flash-attention-3"}[package]
    system = prepared(backend, shape, batch)
    seen.clear()
    system.step()
    assert len(set(seen)) == system.request.cell.spec.num_hidden_layers
    assert system.observed_path().output_error.relative_norm < OUTPUT_TOLERANCE


def test_the_operator_out_of_vllm_is_called_by_its_schema(prepared, monkeypatch):
    schema = (
        "(Tensor q, Tensor k, Tensor v, Tensor? k_new, Tensor? seqused_k, int? max_seqlen_q, int? max_seqlen_k, "
        "float softmax_scale, bool is_causal, int window_size_left, int window_size_right, float softcap, "
        "bool is_rotary_interleaved, int num_splits, bool? pack_gqa, int sm_margin, int cp_world_size) -> Tensor[]"
    )
    library = torch.library.Library("_vllm_fa3_C", "FRAGMENT")
    library.define(f"fwd{schema}")
    called = []

    def fwd(q, k, v, k_new, seqused_k, max_q, max_k, scale, causal, left, right, softcap, rotary, splits, pack, *rest):
        called.append((k_new, seqused_k.tolist(), max_q, max_k, causal, left, right, splits, pack, rest))
        assert scale == pytest.approx(q.shape[-1] ** -0.5)
        return [attend(q, k, v)]

    library.impl("fwd", fwd, "CPU")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(flash_attention_3, "vllm_library", lambda: "library.so")
    system = prepared("flash-attention-3")
    system.step()
    assert called[-1] == (None, [101], 1, 101, False, -1, -1, 0, None, (0, 1))
    path = system.observed_path()
    assert path.output_error.relative_norm < OUTPUT_TOLERANCE
    assert path.operators["_vllm_fa3_C::fwd"] == 2
    with pytest.raises(RuntimeError, match="takes no turbo: this version is not supported"):
        arguments_of(torch.ops._vllm_fa3_C.fwd.default, {"turbo": 1})
    with pytest.raises(RuntimeError, match="wants q: this version is not supported"):
        arguments_of(torch.ops._vllm_fa3_C.fwd.default, {})
    library._destroy()


@pytest.mark.parametrize("length", [1, PAGE_TOKENS, 37])
def test_pages_hold_every_token_in_order(length):
    cached = torch.randn(2, 3, length, 8)
    indptr, indices, last = page_table(2, length)
    pages = paged(cached)
    assert pages.shape[0] == indptr[-1] == len(indices)
    for sequence in range(2):
        own = pages[indices[indptr[sequence] : indptr[sequence + 1]].long()].flatten(0, 1)
        used = len(own) - PAGE_TOKENS + int(last[sequence])
        assert used == length
        assert torch.equal(own[:used].transpose(0, 1), cached[sequence])


@pytest.mark.parametrize(("shape", "cores"), [("group of 7", "tensor"), ("wide heads", "cuda")])
def test_flashinfer_is_planned_ahead_and_run_over_pages(prepared, monkeypatch, shape, cores):
    wrappers = []

    class Wrapper:
        def __init__(self, workspace, layout, *, use_cuda_graph, use_tensor_cores, **buffers):
            assert (layout, use_cuda_graph, set(buffers.values())) == ("NHD", False, {None})
            self.tensor_cores, self.planned = use_tensor_cores, 0
            wrappers.append(self)

        def plan(self, indptr, indices, last, heads, kv_heads, head_dim, page_size, q_data_type, kv_data_type):
            assert q_data_type == kv_data_type == torch.bfloat16
            self.table, self.heads = (indptr, last, page_size), (heads, kv_heads, head_dim)
            self.planned += 1

        def run(self, query, cache):
            indptr, last, page_size = self.table
            batch = len(last)
            assert query.shape == (batch, self.heads[0], self.heads[2])
            length = (int(indptr[1]) - 1) * page_size + int(last[0])
            keys, values = (part.view(batch, -1, *self.heads[1:])[:, :length] for part in cache)
            return attend(query[:, None], keys, values)[:, 0]

    install(monkeypatch, "flashinfer", BatchDecodeWithPagedKVCacheWrapper=Wrapper)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    system = prepared("flashinfer", shape, batch=2)
    (wrapper,) = wrappers
    planned = wrapper.planned
    system.step()
    path = system.observed_path()
    assert wrapper.planned == planned
    assert path.plan_seconds > 0
    assert (path.facts["cores"], wrapper.tensor_cores) == (cores, cores == "tensor")
    assert path.output_error.relative_norm < OUTPUT_TOLERANCE


def install(monkeypatch, package, **names):
    """Put a package into place that holds these names alone."""
    module = types.ModuleType(package)
    module.__spec__ = importlib.machinery.ModuleSpec(package, None)
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, package, module)
