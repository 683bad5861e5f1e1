"""Importing storage is light: a command that only asks what is done loads neither torch nor zarr."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
MODULES = sorted(path.stem for path in (REPOSITORY / "storage").glob("*.py") if path.stem != "__init__")
NEVER = {"torch", "prefect", "transformers", "detectron2", "PIL", "matplotlib"}
HEAVY = {"zarr", "pyarrow", "numpy"}
WITHOUT_HEAVY = {
    "artifact",
    "checkpoint",
    "commits",
    "differences",
    "durable",
    "errors",
    "fingerprint",
    "jpeg",
    "lease",
    "provenance",
    "recipe",
    "shard_plan",
}
NEEDS_ZARR = {"region_layout", "region_store", "region_writer"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_alone_and_brings_nothing_heavy(module):
    code = f"import sys, storage.{module}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & NEVER
    if module in WITHOUT_HEAVY:
        assert not loaded & HEAVY
    if module not in NEEDS_ZARR:
        assert "zarr" not in loaded
