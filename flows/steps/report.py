"""Everything so far -> report.html, one page to read and hand on, and summary.json, its numbers for machines."""

from typing import Any

from flows.config import PipelineConfig
from flows.dag import Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import identity

CODE_VERSION = 1
STAGES_SHOWN = ("corpora", "sample", "train-detector", "extract", "pretrain", "finetune", "evaluate")


def step(config: PipelineConfig, steps: dict[str, Step]) -> Step:
    """The step that writes the report.

    Args:
        steps: the steps made so far, by name; all but embeddings are shown, each under its own name as role.
    """
    shown = {name: needed for name, needed in steps.items() if needed.stage in STAGES_SHOWN}
    inputs = {name: needed.recipe.fingerprint for name, needed in shown.items()}
    # The page prints the configuration, so all of it is identity here.
    recipe = Recipe("report", config.name, identity(config), inputs, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        from flows.report import write_report  # imports matplotlib, which `status` need not load

        return write_report(config, shown, run)

    return Step("report", recipe, {name: name for name in shown}, finish)
