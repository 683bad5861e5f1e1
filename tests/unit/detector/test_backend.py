"""detectron2 is found, shimmed and checked, or its absence explained."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from detector import backend

REPOSITORY = Path(__file__).resolve().parents[3]


def test_capability_check_names_what_it_found() -> None:
    assert backend.check_capability().startswith("detectron2 0.6")


def test_the_borrowed_constant_is_returned() -> None:
    assert not hasattr(PIL.Image, "LINEAR")


def test_the_extension_stub_fails_by_name() -> None:
    stub = backend._ExtensionStub("detectron2._C")
    with pytest.raises(AttributeError, match="without its C extension, which 'nms_rotated' needs"):
        stub.nms_rotated  # noqa: B018 - reading it is the test


def test_absent_detectron2_is_explained() -> None:
    code = "import sys; sys.modules['detectron2'] = None; import detector.backend"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "DetectronMissingError" in done.stderr
    assert "python -m deploy.install_detectron2" in done.stderr


def test_import_warns_of_nothing_and_needs_no_prefect_or_storage() -> None:
    code = (
        "import detector.training, detector.evaluation, sys;"
        "assert not {'prefect', 'storage', 'features', 'vlp'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
