"""The laws of the DAG: what is done is not done again, and exactly what changed is."""

import shutil

import pytest
import yaml
from pipeline.harness import STEPS, TINY, payloads

from flows.build import work_seconds
from flows.config import load_config, parse_config
from flows.graph import build_dag
from storage.artifact import Workspace


def test_every_step_runs_and_a_second_run_does_nothing(finished, command_line):
    assert list(build_dag(load_config(TINY)).steps) == STEPS
    before = payloads(finished)
    assert len(before) == len(STEPS) - 1
    sharded = [a for stage in ("sample", "extract") for a in Workspace(finished).artifacts(stage)]
    assert all(work_seconds(artifact) > artifact.seconds for artifact in sharded), "the work on shards must be counted"
    outcome = command_line.run_tiny(finished)
    assert outcome.code == 0
    assert outcome.events[0]["event"] == "nothing-to-do"
    assert outcome.built() == []
    assert payloads(finished) == before


def test_two_runs_in_two_places_make_the_same_bytes(finished, command_line, tmp_path):
    """With Prefect (a temporary server) this time: the payload does not depend on who schedules."""
    outcome = command_line.run_tiny(tmp_path / "other", plain=False)
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == STEPS
    assert payloads(tmp_path / "other") == payloads(finished)


@pytest.mark.parametrize(
    ("override", "rerun"),
    [
        ("evaluate.retrieval.retrieval.top_k=3", {"evaluate-retrieval", "report"}),
        ("finetune.retrieval.train.seed=5", {"finetune-retrieval", "evaluate-retrieval", "embed-library", "report"}),
        ("pretrain.train.optimizer.lr=0.002", set(STEPS[7:])),
        ("detector.model.max_regions=5", set(STEPS[4:])),
        ("detector.train.num_threads=2", set(STEPS[4:])),
        ("execution.threads=2", set()),
        ("corpora.pretrain.sampling.jpeg_quality=80", set(STEPS[4:]) | {"sample-pretrain"}),
        ("corpora.downstream.corpus.seed=13", set(STEPS) - {"corpora-pretrain", "sample-pretrain"}),
        ("execution.workers=7", set()),
        ("finetune.retrieval.train.checkpoint_every_steps=3", set()),
        ("report.num_examples=1", {"report"}),
    ],
)  # fmt: skip
def test_a_changed_field_changes_exactly_the_right_fingerprints(override, rerun):
    before, after = (
        build_dag(parse_config(yaml.safe_load(TINY.read_text()), o, source="tiny")) for o in ([], [override])
    )
    changed = {name for name in STEPS if before.steps[name].recipe.fingerprint != after.steps[name].recipe.fingerprint}
    assert changed == rerun


def test_a_changed_field_reruns_exactly_the_right_steps(copy_of_finished, command_line):
    outcome = command_line.run_tiny(copy_of_finished, "--set", "evaluate.retrieval.retrieval.top_k=3")
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == ["evaluate-retrieval", "report"]
    assert set(outcome.cached()) == set(STEPS) - {"evaluate-retrieval", "report"}


def test_a_deleted_output_and_nothing_else_is_rebuilt(copy_of_finished, command_line, finished):
    dag = build_dag(load_config(TINY))
    regions = Workspace(copy_of_finished).directory(dag.steps["extract-downstream"].recipe)
    shutil.rmtree(sorted((regions / "parts").iterdir())[1])
    (Workspace(copy_of_finished).directory(dag.steps["pretrain"].recipe) / "model" / "model.safetensors").unlink()
    state = command_line("status", TINY, "--workspace", copy_of_finished, "--json")
    assert {e["step"] for e in state.events if e["state"] != "done"} == {"extract-downstream", "pretrain"}
    outcome = command_line.run_tiny(copy_of_finished)
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == ["extract-downstream", "pretrain"]
    assert payloads(copy_of_finished) == payloads(finished)


def test_why_names_the_differing_field(finished, command_line):
    arguments = ("finetune", TINY, "--workspace", finished, "--json")
    same = command_line("why", *arguments)
    assert same.events[0]["verdict"] == "done, it would not run"
    other = command_line("why", *arguments, "--set", "finetune.retrieval.train.optimizer.lr=0.5")
    assert other.events[0]["differences"] == [
        {"kind": "config", "field": "train.train.optimizer.lr", "old": 0.001, "new": 0.5}
    ]
    assert "as last time" in other.events[0]["cost"]


def test_selection_from_only_until(copy_of_finished, command_line, tmp_path):
    refused = command_line.run_tiny(tmp_path / "empty", "--only", "extract-downstream")
    assert refused.code == 1
    assert "need corpora-downstream, sample-downstream, train-detector, not done" in refused.stderr
    until = command_line.run_tiny(tmp_path / "empty", "--until", "sample-pretrain")
    assert until.built() == ["corpora-pretrain", "sample-pretrain"]
    override = ("--set", "finetune.retrieval.train.seed=9")
    started = command_line.run_tiny(copy_of_finished, "--from", "finetune", "--until", "evaluate-retrieval", *override)
    assert started.built() == ["finetune-retrieval", "evaluate-retrieval"]
    stage = command_line("report", TINY, "--workspace", copy_of_finished, "--json", "--no-orchestrator", *override)
    assert stage.built() == ["report"]


def test_unknown_words_are_refused(finished, command_line):
    assert "no stage or step 'extrakt'" in command_line.run_tiny(finished, "--only", "extrakt").stderr
    unknown = command_line.run_tiny(finished, "--set", "pretrain.train.learning_rate=1")
    assert unknown.code == 1
    assert "pretrain.train.learning_rate: Extra inputs are not permitted" in unknown.stderr
