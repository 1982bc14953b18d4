"""One kernel launch with everything it needs, and how each operation becomes one."""

from memfloor.engine.cuda.calls.attention import attention_calls
from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.cuda.calls.matrices import Draws, Heads, gate_up_call, head_call, projection_call, qkv_call
from memfloor.engine.cuda.calls.stream import stream_call
from memfloor.engine.cuda.calls.token import StepInput, embed_call, sample_call
from memfloor.engine.cuda.calls.unpack import unpack_call

__all__ = [
    "Draws",
    "Heads",
    "KernelCall",
    "StepInput",
    "attention_calls",
    "embed_call",
    "gate_up_call",
    "head_call",
    "projection_call",
    "qkv_call",
    "sample_call",
    "stream_call",
    "unpack_call",
]
