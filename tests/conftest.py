"""What all tiers share: an empty cache, the synthetic Inception weights, and no silent skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TIERS_WITHOUT_SKIPS = ("tests/oracle/", "tests/e2e/")  # where CI is set
REASONS_TO_SKIP = ("needs a GPU", "needs Chromium")
LEFT_TO_SLOW = pytest.StashKey[list[str]]()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache, and no weights from the environment."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(folder))
    monkeypatch.delenv("DIT_EVAL_INCEPTION", raising=False)
    return folder


@pytest.fixture(scope="session")
def golden_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic weights with which the originals were run, as a .safetensors file."""
    from dit_eval.diagnostics.recorded.networks import (
        save_inception,  # loads torch, which tests of messages alone do not need
    )

    return save_inception(tmp_path_factory.mktemp("weights") / "inception.safetensors")


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember the tests that only `make slow` runs."""
    for item in items:
        if item.get_closest_marker("simulation"):
            item.config.stash.setdefault(LEFT_TO_SLOW, []).append(item.nodeid)


def unexpected_skips(config: pytest.Config) -> list[str]:
    """The tests of the oracle and e2e tiers that were skipped for another reason than the accepted ones.

    Empty where CI is not set: a developer may lack something, the gate may not.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if "CI" not in os.environ or reporter is None:
        return []
    skipped = [report for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    reasons = {report.nodeid: report.longrepr[2].removeprefix("Skipped: ") for report in skipped}
    return [
        f"{test}: {reason}"
        for test, reason in reasons.items()
        if test.startswith(TIERS_WITHOUT_SKIPS) and not reason.startswith(REASONS_TO_SKIP)
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session where a test was skipped that has to run."""
    if unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the tests that were skipped but have to run, and those that only `make slow` runs."""
    for title, tests in (
        ("skipped, but must run where CI is set", unexpected_skips(config)),
        ("left to `make slow`", config.stash.get(LEFT_TO_SLOW, [])),
    ):
        if tests:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(tests))
