"""The detectron2 installer: what it takes, what it refuses, what it says."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy import install_detectron2 as installer
from deploy.install_detectron2 import DetectronInstallError, build_wheel, fetch_sdist, install, verify_sdist

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = {
    "detectron2/__init__.py": b"__version__ = '0.6'\n",
    "detectron2/layers/nms.py": b"x = 1\n",
    "detectron2/model_zoo/configs/a.yaml": b"MODEL: {}\n",
    "projects/dense/dense.py": b"y = 2\n",
    "setup.py": b"raise SystemExit\n",
    "LICENSE": b"Apache License\n",
}


def archive_of(files: dict[str, bytes], path: Path, *, mtime: int = 0) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            entry.size, entry.mtime = len(content), mtime
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_a_wheel_holds_the_package_and_its_licence_alone(tmp_path: Path) -> None:
    wheel = build_wheel(archive_of(FILES, tmp_path / "a.tar.gz"), tmp_path)
    with zipfile.ZipFile(wheel) as content:
        info = "detectron2-0.6+pure1.dist-info"
        assert content.namelist() == [
            *(f"{info}/METADATA", f"{info}/WHEEL", f"{info}/licenses/LICENSE"),
            *("detectron2/__init__.py", "detectron2/layers/nms.py", f"{info}/RECORD"),
        ]
        assert content.read("detectron2/layers/nms.py") == FILES["detectron2/layers/nms.py"]
        assert content.read(f"{info}/licenses/LICENSE") == FILES["LICENSE"]
        assert content.read(f"{info}/RECORD").decode().endswith(f"{info}/RECORD,,\n")


def test_equal_files_give_equal_wheels_whatever_their_dates_and_order(tmp_path: Path) -> None:
    backwards = dict(reversed(FILES.items()))
    (tmp_path / "b").mkdir()
    first = build_wheel(archive_of(FILES, tmp_path / "a.tar.gz"), tmp_path)
    second = build_wheel(archive_of(backwards, tmp_path / "b.tar.gz", mtime=999), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_pip_installs_the_wheel(tmp_path: Path) -> None:
    wheel = build_wheel(archive_of(FILES, tmp_path / "a.tar.gz"), tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "detectron2" / "layers" / "nms.py").is_file()


def test_an_archive_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectronInstallError, match="holds no detectron2 package"):
        build_wheel(archive_of({"LICENSE": b""}, tmp_path / "a.tar.gz"), tmp_path)


def test_another_archive_is_refused_by_its_hash(tmp_path: Path) -> None:
    archive = archive_of(FILES, tmp_path / "a.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(
        DetectronInstallError, match=rf"a\.tar\.gz: SHA-256 is {found}, expected {installer.SDIST_SHA256}"
    ):
        verify_sdist(archive)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetectronInstallError, match=r"none\.tar\.gz is not a file"):
        verify_sdist(tmp_path / "none.tar.gz")


def test_without_an_index_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "_can_read_archives", lambda: True)
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        DetectronInstallError, match=r"could not download pb1-detectron2==0\.6: no network.*--sdist FILE"
    ):
        fetch_sdist(tmp_path)


def test_an_index_with_another_archive_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive_of(FILES, shelf / "pb1-detectron2-0.6.tar.gz")
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(installer, "_can_read_archives", lambda: True)
    with pytest.raises(DetectronInstallError, match=r"whose SHA-256 is not 5d2e9e51e5.*it was not used"):
        fetch_sdist(tmp_path)


def test_missing_runtime_packages_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "RUNTIME_REQUIREMENTS", ("fvcore", "no_such_package"))
    with pytest.raises(DetectronInstallError, match=r"lacks no_such_package, .*\.\[detectron2\]"):
        installer.require_runtime()


def test_a_working_detectron2_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "install_wheel", lambda wheel: pytest.fail("nothing should be installed"))
    assert re.match(r"detectron2 0\.6 at .* works with torch", install(tmp_path / "none.tar.gz"))


def test_the_runtime_requirements_are_those_of_the_extra() -> None:
    extra = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["detectron2"]
    assert sorted(re.match(r"[A-Za-z]+", one).group() for one in extra) == sorted(installer.RUNTIME_REQUIREMENTS)


def test_the_installer_imports_the_standard_library_alone() -> None:
    code = "import sys, deploy.install_detectron2; assert not {'torch', 'numpy', 'detector'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_the_command_line_reports_errors_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.install_detectron2", "--force", "--sdist", str(tmp_path / "x.tar.gz")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
