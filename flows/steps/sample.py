"""Media -> frame store: the sampling plan and JPEG frames of every clip."""

from importlib.metadata import version
from typing import Any

from features.corpora.build import media_root
from features.decoding_pool import DecodingPool
from features.sample_shard import sample_shard
from flows.build import check_failures, work_through
from flows.config import CorpusSection, PipelineConfig
from flows.dag import ShardedWork, Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import identity
from storage.frame_store import FrameStoreWriter
from storage.manifest import Manifest
from storage.shards import PartSet, ShardPlan

CODE_VERSION = 1


def step(name: str, config: PipelineConfig, corpora: Step) -> Step:
    """The step that decodes the frames of one corpus."""
    section = config.corpora[name]
    settings = {
        **identity(section.sampling),
        "rows_per_shard": config.regions.rows_per_shard,
        # Library versions that change pixels.
        "versions": {"decord": version("decord"), "av": version("av"), "pillow": version("pillow")},
    }
    recipe = Recipe("sample", name, settings, {"manifest": corpora.recipe.fingerprint}, CODE_VERSION)
    rows_per_shard = config.regions.rows_per_shard

    def num_rows(run: StepRun) -> int:
        return len(_manifest(run))

    def run_lane(run: StepRun, shards: range) -> None:
        _sample_lane(run, section, ShardPlan(num_rows(run), rows_per_shard), shards)

    def finish(run: StepRun) -> dict[str, Any]:
        parts = PartSet(run.directory, ShardPlan(num_rows(run), rows_per_shard), run.recipe.fingerprint)
        return {"num_clips": parts.plan.num_rows, "failed": check_failures(run, parts)}

    return Step(
        f"sample-{name}", recipe, {"manifest": corpora.name}, finish, ShardedWork(rows_per_shard, num_rows, run_lane)
    )


def _manifest(run: StepRun) -> Manifest:
    return Manifest.read(run.inputs["manifest"].file("manifest.parquet"))


def _sample_lane(run: StepRun, section: CorpusSection, plan: ShardPlan, shards: range) -> None:
    manifest = _manifest(run)
    root = media_root(section.corpus, run.inputs["manifest"].path)
    parts = PartSet(run.directory, plan, run.recipe.fingerprint)
    with DecodingPool(run.execution.workers) as pool:

        def make(shard, rows, staging):
            writer = FrameStoreWriter(staging)
            ledger = sample_shard(manifest, rows, root, section.sampling, writer, pool)
            writer.close()
            return ledger

        work_through(parts, shards, run.progress, make)
