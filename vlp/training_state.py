"""A run in progress, and what a checkpoint of it holds: weights, optimizer, random state, position and metrics.

All of it can be read without unpickling objects.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from storage.checkpoint import Checkpoint, CheckpointStore
from storage.errors import FingerprintMismatchError
from storage.fingerprint import fingerprint
from vlp.data import ClipSource, TrainingData
from vlp.determinism import random_state, restore_random_state
from vlp.models.dual_encoder import DualEncoder
from vlp.run_log import RunLog
from vlp.train_config import TrainConfig

POSITION, WEIGHTS, STATE, BEST = "position.json", "model.safetensors", "state.pt", "best.safetensors"
METRICS = "metrics.jsonl.z"  # zlib; 200 bytes a step, little beside the weights


@dataclass(frozen=True)
class Best:
    """The model of the best validation so far."""

    epochs: int
    steps: int
    metrics: dict[str, Any]
    weights: bytes  # safetensors

    @classmethod
    def of(cls, run: Run, metrics: dict[str, Any]) -> Best:
        """The run's model as it is now; its weights are kept only where they may be selected in the end."""
        keep = run.config.select == "best_val"
        return cls(run.validated_epochs, run.steps, metrics, _weights(run.model) if keep else b"")


@dataclass
class Run:
    """A run in progress; `steps` finished optimizer steps are its position."""

    config: TrainConfig
    directory: Path
    device: torch.device
    model: DualEncoder
    data: TrainingData
    validation: ClipSource | None
    identity: str
    store: CheckpointStore
    log: RunLog
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    total_steps: int
    steps: int = 0
    validated_epochs: int = 0
    best: Best | None = None
    saved_steps: int | None = None  # of the newest checkpoint


def capture(run: Run) -> dict[str, bytes]:
    """Files of a checkpoint of the run as it is now, between two steps."""
    state = io.BytesIO()
    content = {
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "random": random_state(),
    }
    torch.save(content, state)
    epoch, step = run.data.plan.position(run.steps)
    best = run.best and {"epochs": run.best.epochs, "steps": run.best.steps, "metrics": run.best.metrics}
    position = {
        "identity": run.identity,
        "tokenizer": _vocabulary(run.model),
        "steps": run.steps,
        "epoch": epoch,
        "step_in_epoch": step,
        "validated_epochs": run.validated_epochs,
        "best": best,
    }
    files = {
        POSITION: (json.dumps(position, indent=1, sort_keys=True) + "\n").encode(),
        WEIGHTS: _weights(run.model),
        STATE: state.getvalue(),
        METRICS: zlib.compress(run.log.content()),
    }
    return files | ({BEST: run.best.weights} if run.best and run.best.weights else {})


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Bring a freshly built run to where the checkpoint was taken.

    Raises:
        FingerprintMismatchError: the checkpoint belongs to another model, training or data.
    """
    position = json.loads(checkpoint.read(POSITION))
    found = {"identity": run.identity, "tokenizer": _vocabulary(run.model)}
    for name, value in found.items():
        if position[name] != value:
            raise FingerprintMismatchError(
                f"checkpoint of step {checkpoint.step} in {checkpoint.path.parent.name}/: its {name} is "
                f"{position[name][:8]}, this run's is {value[:8]}; model, training, data or captions changed since: "
                "train into another directory or remove the checkpoints"
            )
    run.model.load_state_dict(load_weights(checkpoint.read(WEIGHTS)))
    state = torch.load(io.BytesIO(checkpoint.read(STATE)), map_location="cpu", weights_only=True)
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    restore_random_state(state["random"])
    run.log.start(zlib.decompress(checkpoint.read(METRICS)))
    run.steps, run.validated_epochs = position["steps"], position["validated_epochs"]
    if position["best"]:
        keep = run.config.select == "best_val"
        run.best = Best(**position["best"], weights=checkpoint.read(BEST) if keep else b"")


def _vocabulary(model: DualEncoder) -> str:
    return fingerprint(model.tokenizer.tokenizer.get_vocab())


def _weights(model: torch.nn.Module) -> bytes:
    return save_weights({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
