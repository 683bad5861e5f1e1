"""Equal inputs, equal bits: threads, algorithms and random state of a training run or an evaluation.

The number of CPU threads decides how sums are split and hence their last bits, so it is fixed by the config (identity)
and not taken from the machine: a laptop and a server then agree, and a run resumed elsewhere continues bit by bit on
the same kind of CPU. Another instruction set (AVX2, AVX-512) or a GPU gives other last bits; the record names the host.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def deterministic(num_threads: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Compute with this many CPU threads and deterministic algorithms; what was set before comes back afterwards.

    On CUDA an operation without a deterministic algorithm warns instead of failing, because which ones lack it changes
    with the torch release.
    """
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:  # cuBLAS repeats itself only with a fixed workspace (its manual, "Results reproducibility")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True, warn_only=on_cuda)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.set_num_threads(threads)


def seed_all(seed: int) -> None:
    """Seed every global generator: Python's, NumPy's and torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of all global generators, of types that `torch.load(weights_only=True)` reads back."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue all global generators where `random_state` found them.

    CUDA generators are restored as far as this machine has devices: a run moved to a CPU has no use for the rest.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
