"""Programmatic dependent launch: let a kernel start, and load its weights, before the previous one has ended.

Every kernel waits before its first dependent read and its first write, so a kernel that has passed its wait knows
that all earlier kernels of the stream have ended. All but `sample` release their dependents first of all; `sample`
does so after its wait, so that what starts the next step may rely on everything this one wrote. Needs compute
capability 9.0; older devices and the interpreter run with `OFF`.
"""

import triton
import triton.language as tl

OFF = 0
# Launches overlap; a kernel waits before it reads anything.
FLAGS = 1
# As FLAGS, and constants are loaded before the wait: the first block of past KV, and of weights a whole tile, or of a
# projection its AHEAD first ones.
PRELOAD = 2

MODES = {"off": OFF, "flags": FLAGS, "preload": PRELOAD}


@triton.jit
def release_dependents(PDL: tl.constexpr) -> None:
    """Allow the next kernel of the stream to start as soon as every program of this one has."""
    if PDL > 0:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_before_constants(PDL: tl.constexpr) -> None:
    """Wait for the previous kernel here unless constants are to be loaded first."""
    if PDL == 1:
        tl.extra.cuda.gdc_wait()


@triton.jit
def wait_for_previous(PDL: tl.constexpr) -> None:
    """Wait for the previous kernel here in every mode: there are no constants to load first."""
    if PDL > 0:
        tl.extra.cuda.gdc_wait()


@triton.jit
def wait_after_constants(PDL: tl.constexpr) -> None:
    """Wait for the previous kernel here if constants were loaded first."""
    if PDL == 2:
        tl.extra.cuda.gdc_wait()
