"""One training run: build -> resume -> loop -> commit.

The run is a pure function of its specification. After a kill at any moment it continues from the newest checkpoint and
ends in the same bits (on one kind of device) as if nothing had happened; nothing else is needed to resume, and a
checkpoint of another specification is refused.

An output directory holds `model/`, `metrics.jsonl`, `summary.json` and the last checkpoint in `checkpoints/`, from which
the others can be made again; these are payload. Beside them are `logs/` (times) and `leases/`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from pydantic import Field, model_validator
from safetensors.torch import load as load_weights

from storage.checkpoint import CheckpointStore
from storage.durable import TEMPORARY_MARK, digest_file, remove_tree, replace_file, sync_tree, temporary_name
from storage.fingerprint import canonical_json, fingerprint, identity
from vlp.config import Config, ModelConfig
from vlp.data import ClipSource, PairBatch, SourceSpec, TrainingData
from vlp.determinism import deterministic, seed_all
from vlp.losses import Losses, pretraining_loss
from vlp.models.dual_encoder import WEIGHTS_FILE, DualEncoder
from vlp.run_log import Event, RunLog, read_metrics
from vlp.schedule import learning_rate
from vlp.split_ranking import rank_source
from vlp.train_config import OptimizerConfig, RetrievalConfig, TrainConfig
from vlp.training_state import Best, Run, capture, restore

MODEL, SUMMARY, CHECKPOINTS = "model", "summary.json", "checkpoints"


class NonFiniteLossError(FloatingPointError):
    """A loss or gradient is not a number or infinite; raised before the optimizer step, so no weight was touched."""


class TrainSpec(Config):
    """Everything `train` needs: what (identity) and where (placement)."""

    model: ModelConfig | None = Field(None, description="Model to start from scratch; null with init_model.")
    init_model: Path | None = Field(None, description="Model folder of an earlier stage to continue from (path).")
    train: TrainConfig = Field(description="Training.")
    sources: tuple[SourceSpec, ...] = Field(min_length=1, description="Corpora trained on; steps alternate.")
    val: SourceSpec | None = Field(None, description="Split validated on; null: no validation.")
    output: Path = Field(description="Directory of payload, checkpoints and logs (path).")
    device: str = Field("auto", description="'cpu', 'cuda', 'cuda:N', or 'auto': CUDA where there is one.")

    @model_validator(mode="after")
    def _check(self) -> TrainSpec:
        problems = []
        if (self.model is None) == (self.init_model is None):
            problems.append("give exactly one of 'model' (from scratch) and 'init_model' (a model folder)")
        if self.train.select == "best_val" and self.val is None:
            problems.append("train.select is 'best_val' but there is no 'val' source")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def train(
    spec: TrainSpec, *, on_event: Callable[[Event], None] = lambda event: None, stop: Callable[[], bool] = lambda: False
) -> bool:
    """Train to the end, or until `stop()` says so between two steps.

    Args:
        spec: the run.
        on_event: told what happens: dicts with "event" in loading, started, step, checkpoint, validating, validation,
            stopped, done.
        stop: asked before every step; when it answers True a checkpoint is written and the run returns.
    Returns:
        True when the output is complete, False when stopped; call again with the same spec to go on.
    Raises:
        NonFiniteLossError: loss or gradient is not finite.
        FingerprintMismatchError: the directory holds checkpoints of another specification.
    """
    device = choose_device(spec.device)
    with deterministic(spec.train.num_threads, device):
        on_event({"event": "loading"})
        run = build(spec, device, on_event)
        try:
            resume(run)
            if not loop(run, stop):
                return False
            commit(run)
            return True
        finally:
            run.log.close()


def build(spec: TrainSpec, device: torch.device, on_event: Callable[[Event], None]) -> Run:
    """Sources, model, optimizer: everything as it is before the first step."""
    config = spec.train
    if config.precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision fp16 needs a CUDA device, found {device}: use bf16 or fp32")
    seed_all(config.seed)
    sources = [ClipSource.open(source, config.data, with_captions=True) for source in spec.sources]
    model = initial_model(spec, sources).to(device)
    data = TrainingData(sources, config, model.tokenizer)
    validation = ClipSource.open(spec.val, config.data, with_captions=True) if spec.val else None
    for source in [*sources, *([validation] if validation else [])]:
        source.require_feature_dim(model.config.video.feature_dim)
    total_steps = min(config.epochs * data.plan.steps_per_epoch, config.max_steps or 1 << 62)
    spec.output.mkdir(parents=True, exist_ok=True)
    return Run(
        config=config,
        directory=spec.output,
        device=device,
        model=model,
        data=data,
        validation=validation,
        identity=run_identity(spec, sources, validation),
        store=CheckpointStore(spec.output / CHECKPOINTS, keep=config.keep_checkpoints),
        log=RunLog(spec.output, on_event, total_steps),
        optimizer=make_optimizer(model, config.optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        total_steps=total_steps,
    )


def initial_model(spec: TrainSpec, sources: list[ClipSource]) -> DualEncoder:
    """A model with as many temporal positions as it is trained on frames.

    From scratch `video.num_frames` of the configuration is set to the training's, as in the release: positions that
    pre-training on one frame never sees would stay random, and fine-tuning inflates the one it learned instead.
    """
    num_frames = spec.train.data.num_frames
    if spec.init_model is not None:
        return DualEncoder.from_pretrained(spec.init_model, num_frames=num_frames)
    video = spec.model.video.model_copy(update={"num_frames": num_frames})
    captions = [caption for source in sources for captions in source.captions for caption in captions]
    return DualEncoder.build(spec.model.model_copy(update={"video": video}), captions)


def run_identity(spec: TrainSpec, sources: list[ClipSource], validation: ClipSource | None) -> str:
    """Fingerprint of all that decides the result; a checkpoint is continued only under the same one."""
    outside = spec.model.outside_files() if spec.model else {"init_model": spec.init_model / WEIGHTS_FILE}
    return fingerprint(
        {
            "model": identity(spec.model) if spec.model else None,
            "files": {name: digest_file(path) for name, path in outside.items()},
            "train": identity(spec.train),
            "sources": [source.identity() for source in sources],
            "val": validation.identity() if validation else None,
        }
    )


def make_optimizer(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam (paper A.3) or AdamW over all parameters, in one group."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind]
    return kind(model.parameters(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)


def choose_device(wanted: str) -> torch.device:
    """The torch device that 'auto', 'cpu', 'cuda' or 'cuda:N' means here."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {wanted!r} but torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device(wanted)


def resume(run: Run) -> None:
    """Continue from the newest good checkpoint, or begin where there is none."""
    checkpoint = run.store.latest()
    if checkpoint is None:
        run.log.start(b"")
    else:
        restore(run, checkpoint)
        run.saved_steps = run.steps
    run.log.event(
        "started",
        resumed_at=run.steps,
        total_steps=run.total_steps,
        steps_per_epoch=run.data.plan.steps_per_epoch,
        device=str(run.device),
        clips={source.name: len(source) for source in run.data.sources},
        excluded={source.name: len(source.excluded) for source in run.data.sources},
    )


def loop(run: Run, stop: Callable[[], bool]) -> bool:
    """All remaining steps; False when stopped before the last."""
    validate_if_due(run)  # the checkpoint of an epoch's end is older than its validation
    with closing(run.data.read_ahead(run.steps, run.total_steps)) as batches:
        for batch, waited in batches:
            if stop():
                checkpoint(run)
                run.log.event("stopped", step=run.steps, total_steps=run.total_steps)
                return False
            optimize(run, batch, waited)
            ends_epoch = run.steps % run.data.plan.steps_per_epoch == 0
            if ends_epoch or run.steps == run.total_steps or run.steps % run.config.checkpoint_every_steps == 0:
                checkpoint(run)
            validate_if_due(run)
    return True


def optimize(run: Run, batch: PairBatch, waited: float) -> None:
    """One optimizer step."""
    began = time.monotonic()
    epoch, _ = run.data.plan.position(run.steps)
    rate = learning_rate(run.config.optimizer, epoch=epoch, step=run.steps, total_steps=run.total_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    losses = compute_losses(run, batch)
    if not torch.isfinite(losses.total):
        raise NonFiniteLossError(_describe_non_finite(run, batch, epoch, losses))
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(losses.total).backward()
    run.scaler.unscale_(run.optimizer)
    norm = clip_gradients(run.model, run.config.optimizer.clip_grad_norm)
    if not run.scaler.is_enabled() and not torch.isfinite(norm):  # a scaler skips such a step and lowers its scale
        raise NonFiniteLossError(_describe_non_finite(run, batch, epoch, losses, gradient=norm.item()))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.steps += 1
    row = {
        "step": run.steps,
        "epoch": epoch,
        "source": batch.source,
        "loss": losses.total.item(),
        "global": losses.global_.item(),
        "local": losses.local.item(),
        "lr": rate,
        "grad_norm": norm.item() if torch.isfinite(norm) else None,
    }
    run.log.step(row, samples=len(batch.clip_ids), seconds=time.monotonic() - began + waited, waited=waited)


def compute_losses(run: Run, batch: PairBatch) -> Losses:
    """Encoders in the configured precision, losses in float32."""
    run.model.train()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[run.config.precision]
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype != torch.float32):
        videos, texts = run.model(batch.videos.to(run.device), batch.texts.to(run.device))
    return pretraining_loss(videos, texts, run.model.config.alignment, run.config.loss)


def clip_gradients(model: torch.nn.Module, limit: float | None) -> torch.Tensor:
    """L2 norm of all gradients together before clipping; they are scaled down to `limit` where it is given."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def checkpoint(run: Run) -> None:
    """Save the state, unless it is saved already.

    The last one replaces all others: which older ones there are depends on when a run was interrupted, and a finished
    directory must not.
    """
    if run.saved_steps == run.steps:
        return
    is_last = run.steps == run.total_steps
    store = CheckpointStore(run.store.directory, keep=1) if is_last else run.store
    store.save(run.steps, capture(run))
    run.saved_steps = run.steps
    run.log.event("checkpoint", step=run.steps, total_steps=run.total_steps)


def validate_if_due(run: Run) -> None:
    """Rank the validation split after every n-th epoch and after the last step, once each."""
    per_epoch = run.data.plan.steps_per_epoch
    epochs = -(-run.steps // per_epoch)  # begun ones: the run may end within an epoch
    is_end = run.steps == run.total_steps
    is_turn = run.steps % per_epoch == 0 and epochs % run.config.validate_every_epochs == 0
    if run.validation is None or epochs <= run.validated_epochs or not (is_end or is_turn):
        return
    run.log.event("validating", step=run.steps, total_steps=run.total_steps)
    metrics = rank_source(run.model, run.validation, validation_config(run.config), device=run.device).metrics
    row = {"step": run.steps, "validated_epochs": epochs, "val": metrics}
    run.validated_epochs = epochs
    if run.best is None or _goodness(metrics) > _goodness(run.best.metrics):
        run.best = Best.of(run, metrics)
    run.log.validation(row)


def validation_config(config: TrainConfig) -> RetrievalConfig:
    """How the validation split is ranked: as configured, or on the training's frames without chance."""
    if config.validation is not None:
        return config.validation
    data = config.data.model_copy(update={"frame_sampling": "uniform"})
    return RetrievalConfig(data=data, num_threads=config.num_threads)


def commit(run: Run) -> None:
    """Write the model folder and the summary, each under a temporary name first."""
    if run.config.select == "best_val":
        run.model.load_state_dict(load_weights(run.best.weights))
    for litter in run.directory.glob(f"*{TEMPORARY_MARK}*"):  # of killed commits
        remove_tree(litter) if litter.is_dir() else litter.unlink()
    final = run.directory / MODEL
    temporary = temporary_name(final)
    run.model.save_pretrained(temporary)
    sync_tree(temporary)
    remove_tree(final)
    os.replace(temporary, final)
    summary = summarize(run)
    replace_file(run.directory / SUMMARY, (canonical_json(summary) + "\n").encode())
    run.log.event("done", step=run.steps, total_steps=run.total_steps, summary=summary)


def summarize(run: Run) -> dict:
    """Deterministic facts of a finished run; losses are means over its last (perhaps incomplete) epoch."""
    steps = [row for row in read_metrics(run.log.path) if "loss" in row]
    last = [row for row in steps if row["epoch"] == steps[-1]["epoch"]]
    means = {name: sum(row[name] for row in last) / len(last) for name in ("loss", "global", "local")}
    return {
        "steps": run.steps,
        "epochs": steps[-1]["epoch"] + 1,
        "steps_per_epoch": run.data.plan.steps_per_epoch,
        **means,
        "first_loss": steps[0]["loss"],
        "num_parameters": sum(p.numel() for p in run.model.parameters()),
        "clips": {source.name: len(source) for source in run.data.sources},
        "excluded": {s.name: dict(sorted(Counter(e.reason for e in s.excluded).items())) for s in run.data.sources},
        "excluded_clips": {s.name: [e.clip_id for e in s.excluded] for s in run.data.sources},
        "best_val": {"epoch": run.best.epochs, "step": run.best.steps, **run.best.metrics} if run.best else None,
    }


def _goodness(metrics: dict) -> tuple[float, float]:
    """Text-to-video R@1, then the mean rank; the earlier epoch wins where both are equal."""
    return metrics["t2v"]["R@1"], -metrics["t2v"]["MeanR"]


def _describe_non_finite(run: Run, batch: PairBatch, epoch: int, losses: Losses, gradient: float | None = None) -> str:
    where = f"step {run.steps + 1} (epoch {epoch}) on {len(batch.clip_ids)} clips of {batch.source!r}"
    parts = f"loss {losses.total.item()}, global {losses.global_.item()}, local {losses.local.item()}"
    if gradient is not None:
        parts += f", gradient norm {gradient}"
    broken = batch.clips_with_non_finite_features()
    cause = f"features of {broken} are not finite" if broken else f"the features are finite; clips: {batch.clip_ids}"
    saved = "there is no checkpoint" if run.saved_steps is None else f"the newest checkpoint is step {run.saved_steps}"
    return f"{where}: {parts}; {cause}. No weight was updated and {saved}; lower the rate or clip gradients"
