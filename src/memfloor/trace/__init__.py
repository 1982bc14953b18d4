"""Where a step's time went: traces taken, read, and reduced to the kernels of a step."""
