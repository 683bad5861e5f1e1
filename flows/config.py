"""Configuration of a whole pipeline: the components' own models, composed.

The same model is loaded from YAML (``flows/configs`` or a path), overridden on the command line
(``--set pretrain.train.optimizer.lr=3e-5``) and used as the Prefect flow parameter. Fields marked *placement* (paths, devices,
worker counts) never enter a fingerprint.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from detector.config import DetectorConfig, DetectorTrainingConfig
from features.corpora.config import CorpusConfig
from features.sampling import SamplingConfig
from vlp.config import ModelConfig
from vlp.train_config import RetrievalConfig, TrainConfig

PLACEMENT = {"placement": True}
# Names become folder names and Prefect run names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*(-[a-z0-9_]+)*$", max_length=60)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every problem found."""


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusSection(Section):
    """One corpus: where its clips come from and which of their frames are kept."""

    corpus: CorpusConfig = Field(description="Annotation format and what it needs.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Which frames of each clip are kept.")


class DetectorTraining(Section):
    """Training the detector on annotated boxes of a corpus, where no trained weights are given."""

    corpus: Name = Field(description="Corpus whose boxes are used; it must carry box annotations.")
    split: str = Field("train", description="Split trained on.")
    eval_corpus: Name | None = Field(
        None, description="Corpus the detector is evaluated on; the one trained on if null."
    )
    eval_split: str = Field("val", description="Split on which box AP and attribute accuracy are reported.")
    max_eval_clips: int | None = Field(None, ge=1, description="At most this many clips of that split; all if null.")
    max_clips: int | None = Field(
        None, ge=1, description="At most this many clips of the split, the first ones; all if null."
    )
    num_threads: int = Field(
        1,
        ge=1,
        description="CPU threads of training (count); identity, since they decide the order of sums and so the weights.",
    )
    training: DetectorTrainingConfig = Field(default_factory=DetectorTrainingConfig, description="Steps, batch, rate.")


class DetectorSection(Section):
    """The detector: either trained in the DAG or loaded from a weights file."""

    model: DetectorConfig = Field(default_factory=DetectorConfig, description="Preset and head sizes.")
    train: DetectorTraining | None = Field(None, description="Train it on a corpus of this pipeline.")
    weights: Path | None = Field(
        None, description="safetensors file; its digest, not its path, is identity.", json_schema_extra=PLACEMENT
    )

    @model_validator(mode="after")
    def _one_source(self) -> "DetectorSection":
        if (self.train is None) == (self.weights is None):
            raise ValueError("give exactly one of 'train' (a corpus with boxes) and 'weights' (a safetensors file)")
        return self


class RegionsSection(Section):
    """The region store."""

    dtype: str = Field("float16", pattern="^float(16|32)$", description="Type of stored features.")
    rows_per_shard: int = Field(256, ge=1, description="Clips per shard: the unit of work, commit and resume.")


class TrainSection(Section):
    """Pre-training or fine-tuning of the dual encoder."""

    corpora: tuple[Name, ...] = Field(min_length=1, description="Corpora trained on; steps alternate between them.")
    split: str = Field("train", description="Split trained on.")
    val_corpus: Name | None = Field(None, description="Corpus validated on after each epoch; none if null.")
    val_split: str = Field("val", description="Split validated on.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="Optimiser, schedule, frames per clip.")
    init: str | None = Field(
        "pretrain",
        description="Step whose model the weights start from ('pretrain', 'finetune-x'); from scratch if null.",
    )


class EvaluateSection(Section):
    """Retrieval on one split with one of the trained models."""

    corpus: Name = Field(description="Corpus evaluated on.")
    split: str = Field("test", description="Split evaluated on.")
    model: str = Field(description="Step that made the model: 'pretrain' (zero-shot) or 'finetune-x'.")
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, description="Ranking and tie policy.")


class EmbedSection(Section):
    """Embeddings of every clip of a corpus, to be searched with text."""

    corpus: Name = Field(description="Corpus embedded, all its splits.")
    model: str = Field(description="Step that made the model.")


class ReportSection(Section):
    """What report.html shows."""

    num_examples: int = Field(8, ge=0, description="Example retrievals with frames and word-region pictures.")


class ExecutionSection(Section):
    """Where and how work runs: nothing here changes a result, nothing here is identity."""

    workers: int = Field(2, ge=1, description="Decoding processes.", json_schema_extra=PLACEMENT)
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="'cpu', 'cuda', 'cuda:N' or 'auto'.",
        json_schema_extra=PLACEMENT,
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of extraction (count); all cores if null.", json_schema_extra=PLACEMENT
    )
    shards_per_lane: int = Field(
        200, ge=1, description="Shards one Prefect task works through.", json_schema_extra=PLACEMENT
    )
    retries: int = Field(2, ge=0, description="Retries of a lane or training task.", json_schema_extra=PLACEMENT)
    retry_delay_seconds: float = Field(5.0, ge=0, description="Wait before a retry.", json_schema_extra=PLACEMENT)
    max_failed_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A stage with a larger share of failed clips stops the run.",
        json_schema_extra=PLACEMENT,
    )
    stall_seconds: float = Field(
        1800.0, gt=0, description="A training process silent for this long is stopped.", json_schema_extra=PLACEMENT
    )


class PipelineConfig(Section):
    """A whole run, from annotation files to the report."""

    name: Name = Field(description="Name of the run; the folder name of its report.")
    corpora: dict[Name, CorpusSection] = Field(min_length=1, description="Corpora by name.")
    detector: DetectorSection = Field(description="What turns frames into regions.")
    regions: RegionsSection = Field(default_factory=RegionsSection, description="Shape of the region store.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Dual encoder.")
    pretrain: TrainSection | None = Field(None, description="Pre-training; none if null.")
    finetune: dict[Name, TrainSection] = Field(default_factory=dict, description="Fine-tunings by name.")
    evaluate: dict[Name, EvaluateSection] = Field(default_factory=dict, description="Evaluations by name.")
    embed: dict[Name, EmbedSection] = Field(default_factory=dict, description="Searchable corpora by name.")
    report: ReportSection = Field(default_factory=ReportSection, description="What the report shows.")
    execution: ExecutionSection = Field(default_factory=ExecutionSection, description="Where and how work runs.")

    def extracted_corpora(self) -> list[str]:
        """Corpora whose regions are extracted: all but those that serve the detector's training alone."""
        trainings = [*([self.pretrain] if self.pretrain else []), *self.finetune.values()]
        used = {name for section in trainings for name in (*section.corpora, section.val_corpus)}
        used |= {section.corpus for section in (*self.evaluate.values(), *self.embed.values())}
        training = self.detector.train
        for_detector = {training.corpus, training.eval_corpus} if training else set()
        return [name for name in self.corpora if name in used or name not in for_detector]

    def sized_model(self) -> ModelConfig:
        """The dual encoder's configuration with the width of the detector's features."""
        video = self.model.video.model_copy(update={"feature_dim": self.detector.model.feature_dim})
        return self.model.model_copy(update={"video": video})

    @model_validator(mode="after")
    def _references_exist(self) -> "PipelineConfig":
        problems = [*_reference_problems(self), *_shape_problems(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _shape_problems(config: PipelineConfig):
    video = config.model.video
    found = config.detector.model.feature_dim
    if "feature_dim" in video.model_fields_set and video.feature_dim != found:
        yield f"model.video.feature_dim is {video.feature_dim} but the detector's features have {found}; leave it out"


def _reference_problems(config: PipelineConfig):
    corpora, models = set(config.corpora), {"pretrain"} if config.pretrain else set()
    models |= {f"finetune-{name}" for name in config.finetune}
    trainings = {f"finetune.{n}": s for n, s in config.finetune.items()}
    if config.pretrain:
        trainings["pretrain"] = config.pretrain
        if config.pretrain.init not in (None, "pretrain"):
            yield f"pretrain.init is {config.pretrain.init!r}: pre-training starts from scratch, leave it out"
    if config.detector.train:
        for corpus in {config.detector.train.corpus, config.detector.train.eval_corpus} - {None} - corpora:
            yield f"detector.train: corpus {corpus!r} is not one of the corpora {sorted(corpora)}"
    for where, section in trainings.items():
        for corpus in (*section.corpora, *([section.val_corpus] if section.val_corpus else [])):
            if corpus not in corpora:
                yield f"{where}: corpus {corpus!r} is not one of the corpora {sorted(corpora)}"
        if where != "pretrain" and section.init is not None and section.init not in models - {where.replace(".", "-")}:
            yield f"{where}.init: no step {section.init!r}; there is {sorted(models)} (or null: from scratch)"
    for kind in ("evaluate", "embed"):
        for name, section in getattr(config, kind).items():
            if section.corpus not in corpora:
                yield f"{kind}.{name}: corpus {section.corpus!r} is not one of the corpora {sorted(corpora)}"
            if section.model not in models:
                yield f"{kind}.{name}: no model step {section.model!r}; there is {sorted(models)}"


def shipped_configs() -> dict[str, Path]:
    """Configurations shipped with regionvlp, by name."""
    folder = Path(str(files("flows") / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(source: str | Path, overrides: list[str] | None = None) -> PipelineConfig:
    """Load a shipped configuration by name or a YAML file by path, with ``key=value`` overrides.

    Raises:
        ConfigError: unknown name, unreadable YAML, unknown key, wrong value; every problem is listed.
    """
    return parse_config(read_tree(source), overrides or [], source=str(source))


def read_tree(source: str | Path) -> dict[str, Any]:
    """The configuration as plain data, before validation."""
    shipped = shipped_configs()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise ConfigError(
            f"no configuration {str(source)!r}: not a file and not one of the shipped ones {sorted(shipped)}"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(tree).__name__}")
    return tree


def parse_config(tree: dict[str, Any], overrides: list[str], *, source: str) -> PipelineConfig:
    """Validate plain data after applying ``key=value`` overrides."""
    for override in overrides:
        _apply_override(tree, override)
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"configuration {source} has {len(lines)} problem(s):\n" + "\n".join(lines)) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: expected key=value, for example pretrain.train.optimizer.lr=3e-5")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is not a section, so nothing can be set below it")
    node[leaf] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: {text!r} is not readable as YAML: {error}") from error
    if isinstance(value, str):  # YAML 1.1 reads 3e-5 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value
