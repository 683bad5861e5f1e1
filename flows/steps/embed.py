"""Checkpoint and region store -> embeddings of every clip of a corpus, to be searched with text."""

from typing import Any

from flows.config import EmbedSection
from flows.dag import Step, StepRun
from storage.artifact import Recipe

CODE_VERSION = 1


def step(name: str, section: EmbedSection, steps: dict[str, Step]) -> Step:
    """The step that embeds one corpus with one model."""
    needs = {"manifest": f"corpora-{section.corpus}", "regions": f"extract-{section.corpus}", "model": section.model}
    inputs = {role: steps[need].recipe.fingerprint for role, need in needs.items()}
    recipe = Recipe("embed", name, {"model_step": section.model}, inputs, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        from flows.devices import choose_device, use_threads
        from vlp.tasks.retrieval import embed_corpus

        use_threads(run.execution.threads)
        return embed_corpus(
            run.inputs["model"].path / "model",
            run.inputs["manifest"].file("manifest.parquet"),
            run.inputs["regions"].path,
            output=run.directory,
            device=choose_device(run.execution.device),
        )

    return Step(f"embed-{name}", recipe, needs, finish)
