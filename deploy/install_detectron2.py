"""Install a detectron2 that the detector package can use: `python -m deploy.install_detectron2`.

detectron2 publishes no wheel, and the one source archive on the package index (`pb1-detectron2` 0.6) lacks the C++ files its own
build wants. Its Python files are those of upstream v0.6, and the detector needs nothing else. So:

1. a detectron2 that is already importable and passes the capability check (`python -m detector.backend`) is used as it is;
2. else the pinned archive is fetched through pip (whatever index pip is configured for), its SHA-256 checked, its `detectron2` package
   packed, unchanged, into a pure-Python wheel together with upstream's Apache-2.0 licence, and that wheel installed without dependencies;
3. the capability check runs again in a fresh process.

The two compatibility shims that v0.6 needs on current Pillow and without its C extension live in `detector/backend.py`, not in the wheel.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

SDIST_NAME = "pb1-detectron2"
SDIST_VERSION = "0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
WHEEL_VERSION = "0.6+pure1"  # a local version: upstream's 0.6 without its C extension, first packing
WHEEL_FILE = f"detectron2-{WHEEL_VERSION}-py3-none-any.whl"
RUNTIME_REQUIREMENTS = ("cloudpickle", "fvcore", "iopath", "omegaconf", "pycocotools", "tabulate", "termcolor", "yacs")
REPOSITORY = Path(__file__).resolve().parents[1]
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can carry
UPSTREAM_HINT = (
    "With git access to the upstream project, `pip install --no-deps --no-build-isolation git+<URL of facebookresearch/detectron2>` "
    "installs its current main, which the detector accepts too (a compiler is optional there)."
)


class DetectronInstallError(RuntimeError):
    """detectron2 could not be fetched, verified, installed or run; the message says which and what to do."""


def probe(python: str = sys.executable) -> tuple[bool, str]:
    """Run the capability check in a fresh process.

    Returns:
        (it passed, what it printed: the version and place of detectron2, or the reason it cannot be used).
    """
    done = subprocess.run(
        [python, "-m", "detector.backend"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    said = (done.stdout if done.returncode == 0 else done.stderr).strip()
    return done.returncode == 0, said


def require_runtime() -> None:
    """Fail early, naming what is missing, where the packages detectron2 imports are not installed."""
    missing = [
        name for name in ("torch", "torchvision", *RUNTIME_REQUIREMENTS) if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise DetectronInstallError(
            f"this environment ({sys.prefix}) lacks {', '.join(missing)}, which detectron2 imports; "
            'run `pip install -e ".[detectron2]"` in the repository first'
        )


def fetch_sdist(folder: Path) -> Path:
    """Download the pinned archive with pip and return its path.

    pip runs an archive's build backend even to download it, and this one's imports torch; hence no build isolation. The hash
    given to pip makes it refuse another archive before any of its code runs.
    """
    environment = dict(os.environ)
    if not _can_read_archives():
        environment["PYTHONPATH"] = str(_borrow_build_tools(folder))
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SDIST_NAME}=={SDIST_VERSION} --hash=sha256:{SDIST_SHA256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--no-build-isolation",
    ]
    done = subprocess.run(
        [*command, "--require-hashes", "--requirement", str(requirement), "--dest", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    archives = sorted(folder.glob("*.tar.gz"))
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    output = done.stderr.strip() or done.stdout.strip()
    raise DetectronInstallError(f"{_explain_pip(output)}\npip said:\n{_last_lines(output)}")


def _can_read_archives() -> bool:
    """Whether setuptools here can read a source archive's metadata: alone since 70.1, before that with the wheel package."""
    try:
        major = int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return major > 70 or importlib.util.find_spec("wheel") is not None


def _borrow_build_tools(folder: Path) -> Path:
    """Put a current setuptools and wheel into a temporary folder; a new Python 3.11 environment has setuptools 65 and no wheel."""
    tools = folder / "build_tools"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "setuptools>=77", "wheel"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DetectronInstallError(
            f"pip could not fetch setuptools and wheel, which it needs to read a source archive; "
            f"install them into this environment or pass the archive with --sdist FILE:\n{_last_lines(done.stderr)}"
        )
    return tools


def _explain_pip(output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"the package index serves a {SDIST_NAME} {SDIST_VERSION} whose SHA-256 is not {SDIST_SHA256}; it was not used. "
            "Use another index, or pass a file you trust with --sdist. " + UPSTREAM_HINT
        )
    if "No module named pip" in output:
        return "this environment has no pip: run `python -m ensurepip --upgrade`"
    return (
        f"pip could not download {SDIST_NAME}=={SDIST_VERSION}: no network, or an index without it. "
        "Download the archive elsewhere and pass it with --sdist FILE. " + UPSTREAM_HINT
    )


def _last_lines(text: str, count: int = 12) -> str:
    return "\n".join("  " + line for line in text.splitlines()[-count:])


def verify_sdist(archive: Path) -> None:
    """Raise DetectronInstallError unless the archive is the pinned one, byte for byte."""
    if not archive.is_file():
        raise DetectronInstallError(f"{archive} is not a file; pass the {SDIST_NAME} {SDIST_VERSION} source archive")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise DetectronInstallError(
            f"{archive.name}: SHA-256 is {found}, expected {SDIST_SHA256} ({SDIST_NAME} {SDIST_VERSION}); "
            "the file is damaged or another release; fetch it again. " + UPSTREAM_HINT
        )


def build_wheel(archive: Path, folder: Path) -> Path:
    """Pack the archive's `detectron2` Python package and licence into a wheel; equal archives give byte-equal wheels.

    Only `.py` files are taken: the model zoo's YAML files need a module (pkg_resources) that setuptools no longer ships.
    """
    files: dict[str, bytes] = {}
    info = f"detectron2-{WHEEL_VERSION}.dist-info"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts
            if not member.isfile() or ".." in parts or len(parts) < 2:
                continue
            inside = "/".join(parts[1:])  # the first part is the archive's own folder
            if inside == "LICENSE":
                files[f"{info}/licenses/LICENSE"] = tar.extractfile(member).read()
            elif parts[1] == "detectron2" and inside.endswith(".py"):
                files[inside] = tar.extractfile(member).read()
    if "detectron2/__init__.py" not in files or f"{info}/licenses/LICENSE" not in files:
        raise DetectronInstallError(
            f"{archive.name} holds no detectron2 package with a LICENSE; it is not the pinned archive"
        )
    files[f"{info}/METADATA"] = _metadata()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: regionvlp\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    wheel = folder / WHEEL_FILE
    _write_zip(wheel, files, record=f"{info}/RECORD")
    return wheel


def _metadata() -> bytes:
    lines = ["Metadata-Version: 2.1", "Name: detectron2", f"Version: {WHEEL_VERSION}", "License: Apache-2.0"]
    lines += ["Summary: Python files of detectron2 v0.6, unchanged, without the C++ extension"]
    lines += [f"Requires-Dist: {name}" for name in RUNTIME_REQUIREMENTS]
    return ("\n".join(lines) + "\n").encode()


def _write_zip(path: Path, files: dict[str, bytes], *, record: str) -> None:
    """Write a wheel whose bytes depend on its content alone: sorted names, one date, no compression (zlib builds differ)."""
    rows = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        for name in sorted(files):
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(files[name])}")
            wheel.writestr(_entry(name), files[name])
        wheel.writestr(_entry(record), "\n".join([*rows, f"{record},,", ""]))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, ZIP_EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, whatever system builds it
    return entry


def install_wheel(wheel: Path) -> None:
    """Install the wheel into the running environment, replacing any detectron2 there; dependencies stay as they are."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DetectronInstallError(
            f"pip could not install {wheel.name} into {sys.prefix}:\n{_last_lines(done.stderr)}"
        )


def install(sdist: Path | None = None, *, force: bool = False) -> str:
    """Make detectron2 usable in the running environment.

    Args:
        sdist: a downloaded source archive to use instead of asking pip for it.
        force: build and install even when the detectron2 that is there passes the check.
    Returns:
        One line: the version and place of the detectron2 that passed the check.
    Raises:
        DetectronInstallError: with the reason and what to do.
    """
    require_runtime()
    if not force:
        usable, said = probe()
        if usable:
            return said
        if importlib.util.find_spec("detectron2") is not None:
            print(
                f"the detectron2 in {sys.prefix} cannot be used and is replaced:\n{_last_lines(said, 3)}",
                file=sys.stderr,
            )
    with tempfile.TemporaryDirectory(prefix="regionvlp-detectron2-") as temporary:
        folder = Path(temporary)
        archive = sdist or fetch_sdist(folder)
        verify_sdist(archive)
        install_wheel(build_wheel(archive, folder))
    usable, said = probe()
    if not usable:
        raise DetectronInstallError(
            f"detectron2 was installed but fails its check:\n{_last_lines(said)}\n{UPSTREAM_HINT}"
        )
    return said


def main() -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.install_detectron2", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sdist", type=Path, help=f"a downloaded {SDIST_NAME}-{SDIST_VERSION}.tar.gz, where pip has no index to ask"
    )
    parser.add_argument("--force", action="store_true", help="install the pinned version even if the present one works")
    arguments = parser.parse_args()
    try:
        print(install(arguments.sdist, force=arguments.force))
    except DetectronInstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
