"""kill -9 in every stage, Ctrl-C and SIGTERM, then the same command again: the payload is byte-equal to that of a run nobody disturbed."""

import os
import signal

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


@pytest.fixture
def listening_to_ctrl_c():
    """A shell starts background jobs deaf to Ctrl-C, and what these tests start would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening_to_ctrl_c")
@pytest.mark.parametrize(("send", "number", "code"), [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)])
def test_stop_under_prefect_and_resume(send, number, code, copy_of_finished, finished, command_line):
    """A terminal sends Ctrl-C to the temporary server too; that must neither delay the end nor fill the screen, and no server may stay."""
    without(copy_of_finished, "pretrain")
    with command_line.start("run", TINY, "--workspace", copy_of_finished, "--json") as process:
        assert any('"step": "pretrain", "event": "progress"' in line for line in process.stdout)
        send(process.pid, number)
        _, stderr = process.communicate(timeout=60)  # ends when the pipes close: the server holds them too
    assert process.returncode == code
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    resumed = command_line.run_tiny(copy_of_finished)
    assert resumed.code == 0, resumed.stderr
    assert payloads(copy_of_finished) == payloads(finished)
