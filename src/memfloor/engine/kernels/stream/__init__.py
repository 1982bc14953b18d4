"""Read a buffer once and nothing else: the read-only bandwidth ceiling."""
