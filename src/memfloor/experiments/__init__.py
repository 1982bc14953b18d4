"""One question each: the only modules that join runtimes with clocks."""
