"""Frame store -> region store: boxes, classes, attributes, scores and pooled features of every stored frame."""

from importlib.metadata import version
from typing import Any

from flows.build import check_failures, work_through
from flows.config import PipelineConfig
from flows.dag import ShardedWork, Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import digest_file, identity
from storage.manifest import Manifest
from storage.shards import PartSet, ShardPlan

CODE_VERSION = 1


def step(name: str, config: PipelineConfig, corpora: Step, sample: Step, trained: Step | None) -> Step:
    """The step that extracts the regions of one corpus; ``trained`` is the detector's step if it is trained here."""
    rows_per_shard = config.regions.rows_per_shard
    inputs = {"manifest": corpora.recipe.fingerprint, "frames": sample.recipe.fingerprint}
    needs = {"manifest": corpora.name, "frames": sample.name}
    if trained is not None:
        inputs["detector"], needs["detector"] = trained.recipe.fingerprint, trained.name
    else:
        if not config.detector.weights.is_file():
            raise FileNotFoundError(f"detector.weights: no file at {config.detector.weights}")
        inputs["weights"] = digest_file(config.detector.weights)
    settings = {
        "detector": identity(config.detector.model),
        "regions": identity(config.regions),
        "num_frames": config.corpora[name].sampling.num_frames,
        # Library versions that change boxes.
        "versions": {package: version(package) for package in ("torch", "torchvision", "detectron2")},
    }
    recipe = Recipe("extract", name, settings, inputs, CODE_VERSION)

    def num_rows(run: StepRun) -> int:
        return len(_manifest(run))

    def run_lane(run: StepRun, shards: range) -> None:
        _extract_lane(run, name, config, ShardPlan(num_rows(run), rows_per_shard), shards)

    def finish(run: StepRun) -> dict[str, Any]:
        parts = PartSet(run.directory, ShardPlan(num_rows(run), rows_per_shard), run.recipe.fingerprint)
        return {"num_clips": parts.plan.num_rows, "failed": check_failures(run, parts)}

    return Step(f"extract-{name}", recipe, needs, finish, ShardedWork(rows_per_shard, num_rows, run_lane))


def _manifest(run: StepRun) -> Manifest:
    return Manifest.read(run.inputs["manifest"].file("manifest.parquet"))


def _extract_lane(run: StepRun, name: str, config: PipelineConfig, plan: ShardPlan, shards: range) -> None:
    parts = PartSet(run.directory, plan, run.recipe.fingerprint)
    if not [shard for shard in parts.pending() if shard in shards]:
        return  # do not load a model for nothing
    # Imported here so that `status` and a run with nothing to do never load torch.
    from detector.inference import RegionDetector
    from features.extraction import extract_shard
    from flows.devices import choose_device, use_threads
    from storage.frame_store import FrameStore
    from storage.region_store import RegionStoreSpec, RegionStoreWriter

    use_threads(run.execution.threads)
    weights = (
        run.inputs["detector"].file("detector.safetensors") if "detector" in run.inputs else config.detector.weights
    )
    model = config.detector.model.model_copy(update={"device": choose_device(run.execution.device)})
    detector = RegionDetector(model, weights)
    manifest, frames = _manifest(run), FrameStore(run.inputs["frames"].path)
    spec = RegionStoreSpec(
        num_frames=config.corpora[name].sampling.num_frames,
        max_regions=config.detector.model.max_regions,
        feature_dim=detector.feature_dim,
        dtype=config.regions.dtype,
    )

    def make(shard, rows, staging):
        writer = RegionStoreWriter(staging, spec, rows)
        ledger = extract_shard(frames, manifest, rows, detector, writer, dtype=config.regions.dtype)
        writer.close()
        return ledger

    work_through(parts, shards, run.progress, make)
