"""Where an artifact came from: host, git state, package versions. Recorded for people; never identity."""

import importlib.metadata
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "av", "decord", "detectron2", "numpy", "pillow", "prefect", "pyarrow", "pydantic", "regionvlp", "safetensors",
    "timm", "tokenizers", "torch", "torchvision", "transformers", "zarr",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """{"git": {"commit", "dirty"} or None outside a checkout, "packages": {name: version}, "host", "python"}."""
    return {
        "git": git_state(),
        "packages": package_versions(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
    }


def git_state(repository: Path = _REPOSITORY) -> dict[str, Any] | None:
    """Commit of the checkout this code runs from and whether tracked files differ from it; None where there is none."""
    commit = _git(repository, "rev-parse", "HEAD")
    changes = _git(repository, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(repository: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(repository), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, no repository, or one owned by somebody else
    return done.stdout.strip()
