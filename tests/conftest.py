import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--comparators", action="store_true", help="fail where a comparator's library is missing, do not skip its tests"
    )


@pytest.fixture
def comparator(request):
    """Return a function that skips a test where a runtime's library is missing, or fails it under --comparators."""
    from memfloor.runtimes import find_runtime

    def need(name, cell=None):
        reason = find_runtime(name).unavailable_reason(cell)
        if reason is not None and request.config.getoption("comparators"):
            pytest.fail(f"{name}: {reason}")
        if reason is not None:
            pytest.skip(reason)

    return need
