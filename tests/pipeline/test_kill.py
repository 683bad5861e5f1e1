"""kill -9 in every stage, then the same command again: the payload is byte-equal to that of a run nobody disturbed."""

import pytest
from pipeline.harness import STEPS, TINY, payloads, without

from flows.config import load_config
from flows.graph import build_dag
from storage.artifact import Workspace

# Work that tells its progress is killed in the middle, the rest as soon as it has begun.
WITH_PROGRESS = {"sample-downstream", "train-detector", "extract-downstream", "pretrain", "finetune-retrieval"}


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step not in ("corpora-pretrain", "sample-pretrain", "extract-pretrain")]
)
def test_kill_and_resume(step, copy_of_finished, finished, command_line):
    without(copy_of_finished, step)
    wanted = "progress" if step in WITH_PROGRESS else "start"
    run = ["run", TINY, "--workspace", copy_of_finished, "--json", "--no-orchestrator"]
    assert command_line.kill_when(run, lambda event: event.get("step") == step and event.get("event") == wanted)
    assert Workspace(copy_of_finished).find(build_dag(load_config(TINY)).steps[step].recipe) is None
    resumed = command_line.run_tiny(copy_of_finished)
    assert resumed.code == 0, resumed.stderr
    assert step in resumed.built()
    assert payloads(copy_of_finished) == payloads(finished)


def test_kill_under_prefect_and_resume(copy_of_finished, finished, command_line):
    without(copy_of_finished, "extract-downstream")
    run = ["run", TINY, "--workspace", copy_of_finished, "--json"]
    assert command_line.kill_when(run, lambda e: e.get("step") == "extract-downstream" and e.get("event") == "progress")
    resumed = command_line.run_tiny(copy_of_finished, plain=False)
    assert resumed.code == 0, resumed.stderr
    assert payloads(copy_of_finished) == payloads(finished)
