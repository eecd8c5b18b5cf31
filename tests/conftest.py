"""Shared by all tests: one folder of compiled kernels for a session, --update-golden, TESTS_END."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import settings

# The cost model reckons with fixed figures, so that no choice depends on the machine or the moment.
os.environ.setdefault("SPARSE_COMPILER_CALIBRATE", "0")

# An example's time says what else the machine does; pytest-timeout ends what hangs.
settings.register_profile("any_time", deadline=None)
settings.load_profile("any_time")

OUT_OF_TIME = "no time left in this run"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is generated now over the golden files, instead of comparing",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """TESTS_FIRST, a number: begin with another file, so that TESTS_END leaves out others."""
    first = int(os.environ.get("TESTS_FIRST", "0"))
    files = list(dict.fromkeys(item.path for item in items))
    if first and files:
        place = {path: (k - first) % len(files) for k, path in enumerate(files)}
        items.sort(key=lambda item: place[item.path])


def pytest_runtest_setup() -> None:
    """TESTS_END, seconds since 1970: a test that has not begun by then is left out.

    .ci/run sets both for the long suites, to end in its 20 minutes on a slow machine too.
    """
    if time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip(OUT_OF_TIME)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly how many were left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    left_out = sum(OUT_OF_TIME in str(report.longrepr) for report in skipped)
    if left_out:
        terminalreporter.write_line(f"LEFT OUT, {OUT_OF_TIME}: {left_out} tests", yellow=True)


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
