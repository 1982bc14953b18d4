"""RMS norm, then the fused Q, K and V projections with bias."""
