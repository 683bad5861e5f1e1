"""Real decode functions that misbehave on clips whose id says so; picklable, so that worker processes run them."""

import ctypes
import os
import signal
from pathlib import Path

from features.clip_frames import sample_clip


def faulty(task):
    """`hang...` waits in native code with the interpreter locked; `segv...` and `kill...` end the process."""
    if task.clip_id.startswith("hang"):
        ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter lock, as a native decoder would
    if task.clip_id.startswith("segv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if task.clip_id.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    return sample_clip(task)


def dies_once(task):
    """The first process that works on a clip dies; a file beside the media remembers."""
    mark = Path(f"{task.path}.{task.clip_id}.died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return sample_clip(task)


def dies_with_decord(task):
    """As a decord bug would: only leaving decord out helps."""
    if task.config.reader == "auto":
        os.kill(os.getpid(), signal.SIGSEGV)
    return sample_clip(task)
