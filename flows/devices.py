"""Which device and how many threads a stage computes with."""

import os

import torch


def choose_device(wanted: str) -> str:
    """The torch device meant by 'auto', 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        ValueError: CUDA asked for and not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"execution.device is {wanted!r} but torch finds no CUDA device; use 'cpu' or 'auto'")
    return wanted


def use_threads(threads: int | None) -> int:
    """Set torch's CPU threads (all cores the process may use, if None) and return their number."""
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count
