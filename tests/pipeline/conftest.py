"""Fixtures of the pipeline tests."""

import shutil
from pathlib import Path

import pytest
from pipeline.harness import CommandLine


@pytest.fixture(scope="session")
def command_line(tmp_path_factory) -> CommandLine:
    """The command line with a home of its own."""
    return CommandLine(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def finished(command_line, tmp_path_factory) -> Path:
    """A workspace in which the tiny configuration has run to its end, uninterrupted. Not to be changed: copy it."""
    workspace = tmp_path_factory.mktemp("finished") / "workspace"
    outcome = command_line.run_tiny(workspace)
    assert outcome.code == 0, outcome.stderr
    return workspace


@pytest.fixture
def copy_of_finished(finished, tmp_path) -> Path:
    """A workspace of one's own with everything done."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))
