"""QK norm, RoPE, KV append and split-KV attention of one token."""
