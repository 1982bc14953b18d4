import uuid

import pytest

from memfloor.record import (
    Anatomy,
    CeilingReading,
    Cell,
    DeviceInfo,
    Environment,
    Failure,
    ObservedPath,
    Protocol,
    Run,
    Skip,
    Step,
)
from memfloor.spec import ModelSpec, Workload

TINY = ModelSpec(
    name="tiny",
    model_type="qwen2",
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=100,
    tie_word_embeddings=False,
    max_position_embeddings=4096,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    qkv_bias=True,
    source="/models/tiny/config.json",
)


@pytest.fixture
def tiny():
    return TINY


def _cell(context_len=512, runtime="hf-eager", device="cpu", **other):
    return Cell(spec=TINY, workload=Workload.of(context_len), runtime=runtime, device=device, **other)


@pytest.fixture
def make_cell():
    return _cell


@pytest.fixture
def make_run():
    def make(step_seconds=(0.01, 0.011, 0.012), ceiling=1e9, block=0, device_name="Some CPU", cell=None):
        device = DeviceInfo(kind="cpu", name=device_name, memory_bytes=2**34, last_level_cache_bytes=2**25, cores=2)
        timed = [Step(phase="timed", host_seconds=seconds) for seconds in step_seconds]
        ceilings = tuple(
            CeilingReading(after_steps=place, pass_bytes=1000, pass_seconds=(1000 / ceiling,) * 3, method="test")
            for place in (1, 1 + len(timed))
        )
        return Run(
            record_id=uuid.uuid4().hex,
            session_id="0" * 32,
            taken_at=f"2026-11-23T10:00:{block:02d}+00:00",
            block=block,
            cell=cell or _cell(),
            protocol=Protocol(parts=1),
            steps=(Step(phase="warmup", host_seconds=9.0), *timed),
            ceilings=ceilings,
            environment=Environment(
                device=device,
                cpu_name=device_name,
                logical_cpus=2,
                host_memory_bytes=2**34,
                kernel="6.1",
                python="3.11.0",
                packages={"torch": "2.13.0"},
                git_commit=None,
                huge_pages="madvise",
                threads=2,
                load_average=0.0,
                foreign_load=0.0,
                sensors_before={"cpu_clock_hz": 3e9},
                sensors_after={"cpu_clock_hz": "not supported"},
            ),
            path=ObservedPath(operators={"aten::mm": 3}, facts={"attention_implementation": "sdpa"}),
        )

    return make


@pytest.fixture
def anatomy_of(make_run, make_cell):
    def make(step_seconds, trace, issue_seconds=None, twin_seconds=(), twin_trace=None, block=0):
        run = make_run(step_seconds=(step_seconds,) * 3, block=block, cell=make_cell(device=trace.device))
        fields = run.model_dump(exclude={"kind", "steps"})
        steps = [Step(phase="warmup", host_seconds=9.0, issue_seconds=issue_seconds)]
        steps += [Step(phase="timed", host_seconds=step_seconds, issue_seconds=issue_seconds)] * 3
        twin = [Step(phase="timed", host_seconds=seconds) for seconds in twin_seconds]
        return Anatomy(**fields, steps=steps, trace=trace, twin=twin, twin_trace=twin_trace)

    return make


@pytest.fixture
def make_failure():
    def make(cause="out_of_memory", last_words="needs 15 GB, 2 GB is free", cell=None, device=None):
        return Failure(
            record_id=uuid.uuid4().hex,
            session_id="0" * 32,
            taken_at="2026-11-23T10:01:00+00:00",
            block=0,
            cell=cell or _cell(),
            cause=cause,
            last_words=last_words,
            device=device,
        )

    return make


@pytest.fixture
def make_skip():
    def make(reason="no such library", cell=None):
        return Skip(
            record_id=uuid.uuid4().hex,
            session_id="0" * 32,
            taken_at="2026-11-23T10:02:00+00:00",
            block=0,
            cell=cell or _cell(),
            reason=reason,
        )

    return make
