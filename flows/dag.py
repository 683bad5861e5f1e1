"""Steps, what they need, and which of them a command selects.

A step is a recipe (its identity) and a plain function that builds the artifact. Fingerprints of all steps are known before
anything runs, because a step's identity holds its inputs' fingerprints, never their bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.config import ExecutionSection
from flows.progress import Progress
from storage.artifact import Artifact, Recipe, Workspace

# Order in which stages are listed; also what --from, --only and --until accept.
STAGES = ("corpora", "sample", "train-detector", "extract", "pretrain", "finetune", "evaluate", "embed", "report")


class SelectionError(ValueError):
    """A stage or step that does not exist, or whose inputs are not done."""


@dataclass(frozen=True)
class StepRun:
    """What a step's function is given."""

    workspace: Workspace
    recipe: Recipe
    directory: Path
    inputs: Mapping[str, Artifact]
    execution: ExecutionSection
    progress: Progress


@dataclass(frozen=True)
class ShardedWork:
    """How a step whose output is made of shards does its work.

    ``num_rows`` and ``run_lane`` get the running step; a lane is a range of shards handled by one Prefect task.
    """

    rows_per_shard: int
    num_rows: Callable[[StepRun], int]
    run_lane: Callable[[StepRun, range], None]


@dataclass(frozen=True)
class Step:
    """One node of the DAG.

    ``finish`` makes the outputs of an unsharded step, or seals a sharded one (summary files, facts); it returns the facts
    that the artifact record carries.
    """

    name: str
    recipe: Recipe
    needs: Mapping[str, str]
    finish: Callable[[StepRun], dict[str, Any]]
    shards: ShardedWork | None = None

    @property
    def stage(self) -> str:
        """The stage this step belongs to."""
        return self.recipe.stage


@dataclass(frozen=True)
class Dag:
    """All steps of a configuration, in an order in which they can run."""

    steps: Mapping[str, Step] = field(default_factory=dict)

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The named steps and everything they need, directly or not."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self.steps[name].needs.values())
        return found

    def resolve(self, word: str) -> list[str]:
        """Step names meant by a stage name ('extract') or a step name ('extract-demo')."""
        names = [name for name, step in self.steps.items() if word in (name, step.stage)]
        if not names:
            raise SelectionError(
                f"no stage or step {word!r} in this configuration; stages: {', '.join(self._stages())}; "
                f"steps: {', '.join(self.steps)}"
            )
        return names

    def select(self, *, start: str | None = None, only: str | None = None, until: str | None = None) -> list[str]:
        """Names of the steps to run, in order.

        Args:
            start: first stage or step to run (``--from``); what it needs must be done already.
            only: the one stage or step to run; what it needs must be done already.
            until: last stage or step; everything it needs is run too.
        """
        if only and (start or until):
            raise SelectionError("--only stands alone: it means --from and --until the same stage")
        if only:
            return self.resolve(only)
        chosen = self.ancestors(self.resolve(until)) if until else set(self.steps)
        if start:
            first = set(self.resolve(start))
            chosen = {name for name in chosen if first & self.ancestors([name])}
            if not chosen:
                raise SelectionError(f"--from {start} --until {until}: {until} does not come after {start}")
        return [name for name in self.steps if name in chosen]

    def require_inputs(self, names: list[str], workspace: Workspace) -> None:
        """Refuse a selection whose inputs from outside it are not done."""
        missing = sorted(
            {
                need
                for name in names
                for need in self.steps[name].needs.values()
                if need not in names and workspace.find(self.steps[need].recipe) is None
            }
        )
        if missing:
            raise SelectionError(
                f"{', '.join(names)} need {', '.join(missing)}, not done in {workspace.root} for this configuration; "
                f"run without --from/--only, or 'regionvlp why {missing[0]} ...' to see what differs"
            )

    def _stages(self) -> list[str]:
        present = {step.stage for step in self.steps.values()}
        return [stage for stage in STAGES if stage in present]
