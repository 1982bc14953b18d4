"""One folder per operation: its reference, and a kernel per back end."""
