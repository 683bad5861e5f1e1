"""Running from the command line: what is told when it cannot."""

import pytest

from flows.config import load_config
from flows.graph import build_dag
from flows.progress import SilentProgress
from flows.run import _go
from storage.artifact import Workspace


@pytest.fixture
def dag_and_config():
    """The demo's DAG, of which nothing is run."""
    config = load_config("demo")
    return build_dag(config), config


def go(dag_and_config, place, *, plain):
    dag, config = dag_and_config
    selection = {"start": None, "only": None, "until": None}
    _go(config, dag, place, ["pretrain"], SilentProgress(), plain=plain, selection=selection)


def test_the_error_is_told_where_its_traceback_cannot_be_kept(dag_and_config, tmp_path):
    (tmp_path / "logs").write_text("where the folder of logs should be")
    with pytest.raises(RuntimeError, match="pretrain needs corpora-pretrain"):
        go(dag_and_config, Workspace(tmp_path), plain=True)


def test_a_traceback_is_kept(dag_and_config, tmp_path):
    with pytest.raises(RuntimeError, match="pretrain needs corpora-pretrain"):
        go(dag_and_config, Workspace(tmp_path), plain=True)
    assert "StageFailedError: pretrain needs" in (tmp_path / "logs" / "last-error.txt").read_text()


def test_a_server_that_does_not_answer(dag_and_config, tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to reach API at http://127.0.0.1:9/api/")

    monkeypatch.setattr("flows.pipeline.pipeline", unreachable)
    monkeypatch.setattr("flows.run._start_temporary_server", lambda: None)
    with pytest.raises(
        RuntimeError, match=r"127\.0\.0\.1:9.*start that Prefect server, unset PREFECT_API_URL.*--no-orchestrator"
    ):
        go(dag_and_config, Workspace(tmp_path), plain=False)
