import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--comparators", action="store_true", help="fail where a comparator's library is missing, do not skip its tests"
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what is derived from records of tests out of the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    # torch keeps kernels in it, and warns of a folder that is not there.
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="session")
def lacking(request):
    """Return a function that skips a test for what is missing, or fails it under --comparators."""

    def end(reason):
        if request.config.getoption("comparators"):
            pytest.fail(reason)
        pytest.skip(reason)

    return end


@pytest.fixture
def comparator(lacking):
    """Return a function that ends a test where a runtime's library is missing."""
    from memfloor.runtimes import find_runtime

    def need(name, cell=None):
        reason = find_runtime(name).unavailable_reason(cell)
        if reason is not None:
            lacking(f"{name}: {reason}")

    return need
