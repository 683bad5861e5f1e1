"""SIGKILL before every single write point of every store, then resume: never a damaged read, byte-equal at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("scenario", "at_least"),
    [
        ("parts", 40),
        ("frames", 40),
        ("manifest", 10),
        ("training", 25),
        pytest.param("regions", 80, marks=pytest.mark.slow),  # 293 write points, two runs each
    ],
)
def test_killed_anywhere_and_resumed(tmp_path, scenario, at_least):
    """`at_least` guards the sweep itself: with fewer write points the hook no longer sees them."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("kill_points_child.py")), scenario, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["problems"] == []
    assert result["write_points"] >= at_least
