"""Measure, explain and close the gap between a batch-1 decode step and its memory floor."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("memfloor")
except PackageNotFoundError:
    # Run from a source tree that was never installed, by PYTHONPATH.
    __version__ = "0+source"
