"""With a real Prefect server on loopback: states named Cached, artifacts, a stage flow of its own, a failed run."""

import contextlib
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from pipeline.harness import STEPS, CommandLine, without


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server with SQLite; yields the command line that uses it and a function asking its API."""
    home, port = tmp_path_factory.mktemp("server"), free_port()
    api = f"http://127.0.0.1:{port}/api"
    line = CommandLine(home, {"PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"})
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(command, env=line.environment(), stdout=log, stderr=subprocess.STDOUT)

    def ask(path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{api}/{path}", data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    try:
        _await_health(process, ask)
        yield line, ask
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def _await_health(process, ask) -> None:
    while True:
        assert process.poll() is None, "the Prefect server ended instead of starting"
        try:
            ask("health")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)  # look again, unless it ends first
            continue
        return


def wait_until(question, ask, path: str, body: dict):
    """Ask until the answer satisfies ``question``: task states travel as events, a little behind the run."""
    for _ in range(500):
        if question(answer := ask(path, body)):
            return answer
    raise AssertionError(
        f"{path} never became what was expected; last answer: {[(a['name'], a['state_name']) for a in answer]}"
    )


def own_tasks(rows: list[dict]) -> list[dict]:
    """Task runs without those by which Prefect shows a flow inside a flow."""
    return [row for row in rows if row["state"]["state_details"]["child_flow_run_id"] is None]


@pytest.mark.timeout(300)
def test_states_and_artifacts_on_a_server(server, copy_of_finished):
    line, ask = server
    without(copy_of_finished, "evaluate-retrieval")
    outcome = line.run_tiny(copy_of_finished, plain=False)
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == ["evaluate-retrieval", "report"]
    flows = {run["name"]: run["state_name"] for run in ask("flow_runs/filter", {"limit": 100})}
    assert flows["tiny"] == "Completed"
    assert flows["evaluate-retrieval"] == "Completed"
    tasks = wait_until(lambda rows: len(own_tasks(rows)) == len(STEPS), ask, "task_runs/filter", {"limit": 100})
    states = {run["name"].rpartition("-")[0]: run["state_name"] for run in own_tasks(tasks)}
    assert {name for name, state in states.items() if state == "Completed"} == {"evaluate-retrieval", "report"}
    assert {state for name, state in states.items() if name not in ("evaluate-retrieval", "report")} == {"Cached"}
    artifacts = ask("artifacts/filter", {"limit": 100})
    table = next(artifact for artifact in artifacts if artifact["key"] == "evaluate-retrieval")
    assert table["type"] == "table"
    assert any(row["what"] == "t2v.R@1" for row in json.loads(table["data"]))


@pytest.mark.timeout(300)
def test_a_failed_run_is_told_and_resumed(server, copy_of_finished):
    line, ask = server
    without(copy_of_finished, "finetune-retrieval")
    override = (
        "--set",
        "finetune.retrieval.train.optimizer.lr=1e30",
        "--set",
        "finetune.retrieval.train.optimizer.milestones=[]",
    )
    outcome = line.run_tiny(copy_of_finished, *override, plain=False)
    assert outcome.code == 1
    assert "No weight was updated" in outcome.stderr
    failed = ask("flow_runs/filter", {"limit": 5, "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
    assert {run["name"] for run in failed} == {"tiny", "finetune-retrieval"}
    right = line.run_tiny(copy_of_finished, plain=False)
    assert right.code == 0, right.stderr
