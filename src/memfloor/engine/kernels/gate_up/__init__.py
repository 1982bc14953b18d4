"""RMS norm, then the gate and up projections joined by SiLU(gate) * up."""
