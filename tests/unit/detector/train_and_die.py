"""Train the tiny detector with checkpoints in argv[1]; SIGKILL this process after step argv[2]."""

import os
import signal
import sys
from pathlib import Path

import torch

from detector.config import DetectorTrainingConfig
from detector.training import StepReport, train_detector
from storage.checkpoint import CheckpointStore
from tests.unit.detector.drawn_examples import draw_example, tiny_config

TRAINING = DetectorTrainingConfig(steps=10, batch_size=2, warmup_steps=2, checkpoint_every=4)


def train(directory: Path, die_after: int | None = None) -> bytes:
    def on_step(report: StepReport) -> None:
        if report.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    examples = [draw_example(index) for index in range(7)]  # 7: batches cross the epochs' ends
    return train_detector(tiny_config(), TRAINING, examples, checkpoints=CheckpointStore(directory), on_step=on_step)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
