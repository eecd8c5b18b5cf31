"""Shared by all tests: one folder of compiled kernels for a whole session, and --update-golden."""

import os
from pathlib import Path

import pytest

# The cost model reckons with fixed figures, so that no choice depends on the machine or the moment.
os.environ.setdefault("SPARSE_COMPILER_CALIBRATE", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is generated now over the golden files, instead of comparing",
    )


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's cache folder: equal kernels of different tests compile once.

    Workers of pytest-xdist share it: each has a folder of its own below the session's. All
    sessions share the folder that TEST_KERNELS names: .ci/run gives an empty one to its steps.
    """
    if "TEST_KERNELS" in os.environ:
        shared = Path(os.environ["TEST_KERNELS"])
        shared.mkdir(parents=True, exist_ok=True)
        return shared
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = tmp_path_factory.getbasetemp().parent / "kernels"
        shared.mkdir(exist_ok=True)
        return shared
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True where the golden files are to be written."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def cached_kernels(kernel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets every compile of the test use the session's folder, whatever options it gives."""
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(kernel_cache))
    return kernel_cache
