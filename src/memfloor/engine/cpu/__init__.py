"""The engine on CPUs: native kernels, packed weights, and the plan over huge-page buffers."""
