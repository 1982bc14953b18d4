"""Print what pytest collects in tests/gpu for each of the given expressions, as if a GPU were here."""

import contextlib
import io
import json
import sys

import pytest
import torch

# Without one the modules are not even imported; collecting launches nothing.
torch.cuda.is_available = lambda: True


class Collected:
    """Keep the tests that were chosen."""

    def __init__(self):
        self.names = []

    def pytest_collection_finish(self, session):
        self.names = [item.name for item in session.items]


def chosen(expression):
    collected = Collected()
    options = ["--collect-only", "-q", "-m", "gpu", "-k", expression, "-p", "no:cacheprovider", "tests/gpu"]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(options, plugins=[collected])
    return collected.names


if __name__ == "__main__":
    json.dump([chosen(expression) for expression in sys.argv[1:]], sys.stdout)
