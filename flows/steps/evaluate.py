"""Checkpoint -> scores: retrieval metrics, rankings, examples and searchable embeddings."""

from typing import Any

from flows.config import EvaluateSection, PipelineConfig
from flows.dag import Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import identity

CODE_VERSION = 1


def step(name: str, config: PipelineConfig, section: EvaluateSection, steps: dict[str, Step]) -> Step:
    """The step that evaluates one model on one split."""
    needs = {"manifest": f"corpora-{section.corpus}", "regions": f"extract-{section.corpus}", "model": section.model}
    inputs = {role: steps[need].recipe.fingerprint for role, need in needs.items()}
    recipe = Recipe("evaluate", name, identity(section), inputs, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        return _evaluate(run, section)

    return Step(f"evaluate-{name}", recipe, needs, finish)


def _evaluate(run: StepRun, section: EvaluateSection) -> dict[str, Any]:
    from flows.devices import choose_device, use_threads
    from vlp.tasks.retrieval import evaluate_retrieval

    use_threads(run.execution.threads)
    return evaluate_retrieval(
        run.inputs["model"].path / "model",
        run.inputs["manifest"].file("manifest.parquet"),
        run.inputs["regions"].path,
        split=section.split,
        config=section.retrieval,
        output=run.directory,
        device=choose_device(run.execution.device),
    )
