"""The learning rate as a pure function of the position in training.

Nothing is accumulated, so a resumed run needs no scheduler state: the checkpoint's position is the state. (The release
overwrites its rate after every epoch with another command-line value; that is a bug and not offered.)
"""

import math

from vlp.train_config import OptimizerConfig


def learning_rate(config: OptimizerConfig, *, epoch: int, step: int, total_steps: int) -> float:
    """Rate of one optimizer step.

    Args:
        epoch: finished epochs before this step, from 0.
        step: finished steps before this step over the whole run, from 0.
        total_steps: steps of the whole run; where the cosine ends.
    Returns:
        The rate. During the warm-up it rises in a straight line and meets the schedule at step `warmup_steps`.
    Source: Cai et al. 2022, A.3: one tenth after 30 and 40 epochs (pre-training) or 2, 4 and 8 (fine-tuning).
    """
    rate = config.lr * _shape(config, epoch, step, total_steps)
    if step < config.warmup_steps:
        rate *= (step + 1) / (config.warmup_steps + 1)
    return rate


def _shape(config: OptimizerConfig, epoch: int, step: int, total_steps: int) -> float:
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "milestones":
        return config.decay ** sum(epoch >= milestone for milestone in config.milestones)
    decaying = max(total_steps - 1 - config.warmup_steps, 1)
    progress = min(max(step - config.warmup_steps, 0) / decaying, 1.0)
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
