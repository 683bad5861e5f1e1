"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real media, annotations and golden values ($REGIONVLP_TEST_DATA, default ../shared)."""
    folder = Path(os.environ.get("REGIONVLP_TEST_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no test data at {folder}: set REGIONVLP_TEST_DATA to a folder holding data/ and golden/")
    return folder
