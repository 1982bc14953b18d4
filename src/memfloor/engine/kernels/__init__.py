"""The engine's kernels: per operation a plain reference, which is the truth, and a Triton kernel."""
