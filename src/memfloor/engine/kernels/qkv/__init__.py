"""RMS norm, the fused Q, K and V projections with bias, and RoPE; of QK norm all but its scale."""
