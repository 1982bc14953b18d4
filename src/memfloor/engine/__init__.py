"""The project's own decode engine: one plan of kernel calls over fixed buffers, replayed every step."""
