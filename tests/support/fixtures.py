"""Fixtures of the tests that boot containers: the built package, the suite, a machine that is checked at its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import image
from tests.support.container import Container

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package under test: $GRACED_DEB, or what `make deb` built."""
    if "GRACED_DEB" in os.environ:
        return Path(os.environ["GRACED_DEB"]).resolve()
    built = sorted((ROOT / "build").glob("graced_*_all.deb"))
    if len(built) != 1:
        pytest.fail(f"expected one package in build/, found {[p.name for p in built]}: make deb")
    return built[0]


@pytest.fixture(params=image.SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Each test runs on every supported Debian."""
    return str(request.param)


@pytest.fixture
def bare(suite: str, request: pytest.FixtureRequest) -> Iterator[Container]:
    """A machine without graced; not checked at its end."""
    with Container(image.base(suite)) as container:
        yield container
        _keep(container, request)


@pytest.fixture
def machine(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Container]:
    """A machine with graced installed and up. Fails the test on journal lines, core dumps or failed units that the
    test did not allow."""
    with Container(image.installed(suite, deb)) as container:
        yield container
        complaints = container.complaints()
        if complaints:
            request.node.stash[FAILED] = True
        _keep(container, request)
        if complaints:
            pytest.fail("\n".join(["unexpected:", *complaints]), pytrace=False)


def _keep(container: Container, request: pytest.FixtureRequest) -> None:
    """After a failure: the journal goes to build/, and with SIT=1 the machine stays up until Enter."""
    if not request.node.stash.get(FAILED, False):
        return
    directory = ROOT / "build" / "journals"
    directory.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in request.node.name)
    (directory / f"{name}.txt").write_text(
        container.run(["journalctl", "-q", "--no-pager", "-o", "short-monotonic", "--all"]).stdout
    )
    print(f"journal: build/journals/{name}.txt")
    if os.environ.get("SIT"):
        with open("/dev/tty", "r+") as terminal:
            terminal.write(f"\n{request.node.name} failed; enter the machine with\n")
            terminal.write(f"  nsenter -t {container.leader} -a\nEnter ends it. ")
            terminal.flush()
            terminal.readline()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Remembers for the fixtures that the test itself failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[FAILED] = True
