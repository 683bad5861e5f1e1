"""``regionvlp doctor``: is this machine able to run the pipeline?"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "decord",
    "av",
    "zarr",
    "pyarrow",
    "numpy",
    "prefect",
    "pydantic",
)
# Below this a demo run (about 0.5 GB) may not finish.
MIN_FREE_BYTES = 2 << 30


def examine() -> list[dict[str, Any]]:
    """Findings, each with ``what``, ``state`` ('ok', 'warning' or 'broken') and ``detail``."""
    checks: tuple[tuple[str, Callable[[], Iterator[tuple[str, str]]]], ...] = (
        ("python", _python), ("packages", _packages), ("prefect", _prefect), ("torch", _torch),
        ("detectron2", _detectron2), ("codecs", _codecs), ("zarr", _zarr), ("disk", _disk), ("leftovers", _leftovers),
    )  # fmt: skip
    findings = []
    for what, check in checks:
        try:
            findings += [{"what": what, "state": state, "detail": detail} for state, detail in check()]
        except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
            findings.append({"what": what, "state": "broken", "detail": f"{type(error).__name__}: {error}"})
    return findings


def _python() -> Iterator[tuple[str, str]]:
    state = "ok" if sys.version_info >= (3, 11) else "broken"
    yield state, f"{sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} cores (>= 3.11 is needed)"


def _packages() -> Iterator[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield "broken", f"{package} is not installed; run 'make setup'"
    yield "ok", ", ".join(found)


def _prefect() -> Iterator[tuple[str, str]]:
    fastapi = tuple(int(part) for part in version("fastapi").split(".")[:2])
    if version("prefect").startswith("3.8.") and fastapi >= (0, 151):
        yield (
            "broken",
            f"prefect {version('prefect')} cannot start a server with fastapi {version('fastapi')}; install 'fastapi<0.151'",
        )
    server = os.environ.get("PREFECT_API_URL")
    yield "ok", f"server {server}" if server else "no server set (PREFECT_API_URL): runs use a temporary one"


def _torch() -> Iterator[tuple[str, str]]:
    import torch

    product = torch.ones(64, 64) @ torch.ones(64, 64)
    assert float(product[0, 0]) == 64.0
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    yield "ok", f"{device}, {torch.get_num_threads()} threads"


def _detectron2() -> Iterator[tuple[str, str]]:
    from detector.backend import check_capability

    yield "ok", check_capability()


def _codecs() -> Iterator[tuple[str, str]]:
    import numpy as np

    from features.corpora.demo_render import encode_h264
    from features.decoding import read_frames

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        frames = [np.full((64, 64, 3), value, np.uint8) for value in (16, 128, 240)]
        encode_h264(path, frames, fps=4)
        decoded = read_frames(path, [0, 2])
        assert len(decoded.frames) == 2
    yield "ok", "an H.264 clip was written and read back"


def _zarr() -> Iterator[tuple[str, str]]:
    import numpy as np
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(folder, shape=(4, 2), chunks=(1, 2), shards=(4, 2), dtype="float16")
        array[:] = np.arange(8).reshape(4, 2)
        assert float(zarr.open_array(folder, mode="r")[3, 1]) == 7.0
    yield "ok", f"zarr {version('zarr')} wrote and read a sharded array"


def _disk() -> Iterator[tuple[str, str]]:
    free = shutil.disk_usage(Path.cwd()).free
    yield ("ok" if free > MIN_FREE_BYTES else "warning"), f"{free / 1e9:.1f} GB free in the current folder"


def _leftovers() -> Iterator[tuple[str, str]]:
    """Temporary Prefect servers whose run was killed live on; say which."""
    proc = Path("/proc")
    if not proc.is_dir():
        return
    found = []
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # the process ended while we looked
            if "prefect.server" in command and "uvicorn" in command and parent == 1:
                found.append(folder.name)
    if found:
        yield "warning", f"temporary Prefect servers left by killed runs: end them with 'kill {' '.join(found)}'"
