"""What a training run and a retrieval evaluation are told: frozen pydantic models, every field with its unit.

Fields marked placement say where or how fast, never what comes out; everything else is identity and enters the
fingerprint of the stage. Three fields that look like placement are identity here, because they change the last bits and
"same fingerprint, same payload" is about bytes: `num_threads` (the order in which a CPU sums), `encode_batch_size`
and `tile_*` (the shapes of matrix products).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vlp.config import Config, LossConfig

PLACEMENT: dict[str, Any] = {"placement": True}
NUM_THREADS = Field(2, ge=1, description="CPU threads of one operator (count); they decide the order of sums.")


class DataConfig(Config):
    """How rows of a region store become batches."""

    num_frames: int = Field(1, ge=1, description="Frames of a clip that the model sees (count; paper: 1, then 8).")
    frame_sampling: Literal["random", "uniform"] = Field(
        "random",
        description="Which stored frames: they are cut into num_frames segments; 'random' draws one frame per segment, "
        "clip and epoch, 'uniform' takes the middle one. As many as are stored: all, either way.",
    )
    max_regions: int = Field(30, ge=1, description="Regions per frame, the most confident first (count).")
    memory_budget_bytes: int = Field(
        4 << 30,  # 4 GiB
        ge=0,
        description="A store whose features fit is read into memory once, a larger one batch by batch (bytes).",
        json_schema_extra=PLACEMENT,
    )
    prefetch_batches: int = Field(
        2, ge=0, description="Batches prepared ahead by the reading thread (count).", json_schema_extra=PLACEMENT
    )


class OptimizerConfig(Config):
    """Adam and its learning rate over time; the defaults are the paper's pre-training (A.3)."""

    kind: Literal["adam", "adamw"] = Field("adam", description="Adam, or AdamW with decoupled weight decay.")
    lr: float = Field(1e-5, gt=0, description="Base learning rate (per step).")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of the first and second moment (per step).")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of an update (no unit).")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of every parameter (per step).")
    clip_grad_norm: float | None = Field(None, gt=0, description="Largest L2 norm of the gradient; null: no clipping.")
    schedule: Literal["milestones", "cosine", "constant"] = Field("milestones", description="Rate after the warm-up.")
    milestones: tuple[int, ...] = Field((30, 40), description="Decay after so many epochs (count); 'milestones' only.")
    decay: float = Field(0.1, gt=0, le=1, description="Factor at a milestone (no unit).")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear rise to lr (count).")
    final_lr_fraction: float = Field(0.0, ge=0, le=1, description="Rate of the last step over lr; 'cosine' only.")

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        problems = []
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            problems.append(f"milestones {self.milestones} must rise and start at 1 or later")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas {self.betas} must lie in [0, 1)")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TrainConfig(Config):
    """One training stage; the defaults are the paper's pre-training (A.3) on one GPU."""

    data: DataConfig = Field(DataConfig(), description="Frames and regions of a training sample.")
    loss: LossConfig = Field(LossConfig(), description="Objective.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Optimizer and learning rate.")
    batch_size: int = Field(
        128, ge=2, description="Pairs per step (count); a corpus with fewer rows gives one batch of all of them."
    )
    epochs: int = Field(50, ge=1, description="Passes; a pass ends with the shortest corpus (count).")
    max_steps: int | None = Field(None, ge=1, description="Most optimizer steps, whatever epochs says (count).")
    max_samples_per_epoch: int | None = Field(
        None, ge=2, description="Most pairs per epoch over all corpora (count; the release: 1,000,000)."
    )
    seed: int = Field(0, ge=0, description="Of first weights, order, frame and caption choice, and dropout.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of the encoders; losses stay in fp32. fp16 scales the loss and needs a CUDA device."
    )
    num_threads: int = NUM_THREADS
    validation: RetrievalConfig | None = Field(
        None, description="How the validation source is ranked; null: as evaluation does by default, this stage's data."
    )
    validate_every_epochs: int = Field(1, ge=1, description="Epochs between validations, where there is a source.")
    select: Literal["last", "best_val"] = Field("last", description="Saved weights: last step, or best validation R@1.")
    checkpoint_every_steps: int = Field(
        500, ge=1, description="Steps between checkpoints, besides every epoch's (count).", json_schema_extra=PLACEMENT
    )
    keep_checkpoints: int = Field(
        2, ge=1, description="Newest checkpoints kept on disk (count).", json_schema_extra=PLACEMENT
    )


class RetrievalConfig(Config):
    """Text-to-video and video-to-text retrieval on one split."""

    data: DataConfig = Field(
        DataConfig(num_frames=8, frame_sampling="uniform"), description="Frames and regions of a clip."
    )
    captions_per_clip: Literal["all", "first"] = Field("all", description="Queries: every caption of a clip or one.")
    encode_batch_size: int = Field(32, ge=1, description="Clips or captions encoded together (count).")
    tile_videos: int = Field(64, ge=1, description="Clips compared at a time (count).")
    tile_texts: int = Field(64, ge=1, description="Captions compared at a time (count).")
    num_threads: int = NUM_THREADS
    ties: Literal["mean", "official"] = Field("mean", description="Rank among equal scores; see vlp.metrics.")
    top_k: int = Field(10, ge=1, description="Answers kept per query in rankings.parquet (count).")
    num_examples: int = Field(12, ge=0, description="Queries shown with answers and alignment (count).")
    example_top_k: int = Field(5, ge=1, description="Answers shown per example (count).")
    regions_per_word: int = Field(3, ge=1, description="Strongest aligned regions kept per word (count).")
    seed: int = Field(0, ge=0, description="Which queries are examples, and which frames where sampling is 'random'.")


TrainConfig.model_rebuild()
