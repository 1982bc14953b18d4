"""The engine on NVIDIA GPUs: Triton kernels, their launch shapes, and the plan over torch tensors."""
