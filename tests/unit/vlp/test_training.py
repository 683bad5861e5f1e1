"""A training run learns, and survives every kind of death without a changed bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from storage.checkpoint import CheckpointStore
from storage.durable import digest_file
from storage.errors import FingerprintMismatchError
from vlp.models.dual_encoder import DualEncoder
from vlp.run_log import read_metrics
from vlp.train_config import TrainConfig
from vlp.training import NonFiniteLossError, TrainSpec, train, validation_config

REPOSITORY = Path(__file__).resolve().parents[3]
# Two corpora of 24 and 16 training clips at batch 8 give 4 steps an epoch; 3 epochs are 12 steps, checkpoints at 3, 4, 6...
SCHEDULE = {"batch_size": 8, "epochs": 3, "checkpoint_every_steps": 3, "select": "best_val", "num_threads": 1}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, write_corpus):
    folder = tmp_path_factory.mktemp("corpora")
    return (
        write_corpus(folder, 32, name="videos", captions=2, failed=(3,)),
        write_corpus(folder, 21, name="images", num_frames=1, seed=1),
    )


@pytest.fixture(scope="module")
def make_spec(sources, tiny_model):
    def make(output: Path, *, train: dict | None = None, **changes) -> TrainSpec:
        fields = {
            "model": tiny_model,
            "train": TrainConfig.model_validate({"optimizer": {"lr": 1e-3}, **SCHEDULE, **(train or {})}),
            "sources": sources,
            "val": sources[0].model_copy(update={"split": "test"}),
            "output": output,
            "device": "cpu",
        }
        return TrainSpec(**{**fields, **changes})

    return make


@pytest.fixture(scope="module")
def uninterrupted(make_spec, tmp_path_factory) -> Path:
    """Output of the run as its own process, with the parent alive to the end."""
    output = tmp_path_factory.mktemp("uninterrupted")
    (output / "test").mkdir()
    spec = output / "test" / "spec.json"
    spec.write_text(make_spec(output).model_dump_json())
    lifeline, our_end = os.pipe()
    finished = subprocess.run(
        [sys.executable, "-m", "vlp.train_main", str(spec)], stdin=lifeline, capture_output=True, cwd=REPOSITORY,
        text=True, timeout=300,
    )  # fmt: skip
    os.close(lifeline)
    os.close(our_end)
    assert finished.returncode == 0, finished.stderr
    (output / "test" / "events").write_text(finished.stdout)
    return output


@pytest.fixture(scope="module")
def run_process(tmp_path_factory):
    """Function that runs a spec in a fresh process, doomed at a point or not, and returns its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("training_forks.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("specs")

    def run(spec: TrainSpec, doom: tuple[str, int] | None = None) -> int:
        path = folder / "spec.json"
        path.write_text(spec.model_dump_json())
        request = {"spec": str(path), "stdout": str(folder / "events"), "doom": doom}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.stdout.close()
    server.wait(timeout=60)


def payload(output: Path) -> dict[str, str]:
    """Digest of every file but times, leases and what this test put there."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file())
    names = {path.relative_to(output).as_posix(): digest_file(path) for path in files}
    kept = {name: digest for name, digest in names.items() if not name.startswith(("logs/", "leases/", "test/"))}
    assert {"metrics.jsonl", "summary.json", "model/model.safetensors"} < set(kept)
    assert {name.split("/")[1] for name in kept if name.startswith("checkpoints/")} == {"step-00000012"}
    return kept


def final_checkpoint(output: Path) -> dict[str, bytes]:
    checkpoint = CheckpointStore(output / "checkpoints").latest()
    return {name: checkpoint.read(name) for name in checkpoint.files}


class TestUninterrupted:
    def test_metrics_have_every_step_once_and_corpora_alternate(self, uninterrupted):
        rows = [row for row in read_metrics(uninterrupted / "metrics.jsonl") if "loss" in row]
        assert [row["step"] for row in rows] == list(range(1, 13))
        assert [row["source"] for row in rows] == ["videos", "images"] * 6
        assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
        assert all(row["loss"] == pytest.approx(row["global"] + row["local"], rel=1e-6) for row in rows)

    def test_every_epoch_is_validated(self, uninterrupted):
        rows = [row for row in read_metrics(uninterrupted / "metrics.jsonl") if "val" in row]
        assert [row["step"] for row in rows] == [4, 8, 12]

    def test_summary_names_what_was_left_out(self, uninterrupted):
        summary = json.loads((uninterrupted / "summary.json").read_text())
        assert summary["clips"] == {"videos": 24, "images": 16}
        assert summary["excluded"] == {"videos": {"unreadable": 1}, "images": {}}
        assert summary["excluded_clips"] == {"videos": ["videos-003"], "images": []}
        assert summary["steps"] == 12

    def test_events_tell_progress(self, uninterrupted):
        events = [json.loads(line) for line in (uninterrupted / "test" / "events").read_text().splitlines()]
        assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["loading", "started", "done"]
        last_step = [event for event in events if event["event"] == "step"][-1]
        assert last_step["step"] == last_step["total_steps"] == 12
        assert last_step["eta_seconds"] == 0
        assert last_step["samples_per_second"] > 0

    def test_times_are_kept_apart_from_the_metrics(self, uninterrupted):
        assert "seconds" not in (uninterrupted / "metrics.jsonl").read_text()
        timings = [json.loads(line) for line in (uninterrupted / "logs" / "timings.jsonl").read_text().splitlines()]
        assert len(timings) == 12
        assert all(0 <= timing["data_wait_share"] <= 1 for timing in timings)

    def test_the_selected_weights_are_of_the_best_validation(self, uninterrupted):
        best = json.loads((uninterrupted / "summary.json").read_text())["best_val"]
        validations = {r["step"]: r["val"] for r in read_metrics(uninterrupted / "metrics.jsonl") if "val" in r}
        highest = max(val["t2v"]["R@1"] for val in validations.values())
        assert best["t2v"]["R@1"] == validations[best["step"]]["t2v"]["R@1"] == highest
        assert (uninterrupted / "model" / "model.safetensors").read_bytes() == final_checkpoint(uninterrupted)[
            "best.safetensors"
        ]


@pytest.mark.parametrize(
    ("point", "step"),
    [
        ("step", 1),  # before any checkpoint
        ("step", 5),
        ("torn metrics", 7),
        ("before save", 3),
        ("inside save", 8),
        ("after save", 4),  # end of an epoch, before its validation
        ("after save", 12),
        ("before summary", 12),
    ],
)
def test_sigkill_anywhere_and_resume_ends_in_the_same_bytes(
    run_process, make_spec, uninterrupted, tmp_path, point, step
):
    spec = make_spec(tmp_path / "run")
    assert run_process(spec, (point, step)) == -9
    assert run_process(spec) == 0
    assert payload(tmp_path / "run") == payload(uninterrupted)


def test_three_deaths_in_one_run_change_nothing_either(run_process, make_spec, uninterrupted, tmp_path):
    spec = make_spec(tmp_path / "run")
    codes = [run_process(spec, doom) for doom in (("step", 4), ("inside save", 6), ("sigterm", 10), None)]
    assert codes == [-9, -9, 75, 0]
    assert payload(tmp_path / "run") == payload(uninterrupted)


def test_sigterm_checkpoints_where_it_stands(run_process, make_spec, uninterrupted, tmp_path):
    spec = make_spec(tmp_path / "run")
    assert run_process(spec, ("sigterm", 5)) == 75
    assert CheckpointStore(tmp_path / "run" / "checkpoints").latest().step == 5
    assert not (tmp_path / "run" / "model").exists()
    assert run_process(spec) == 0
    assert payload(tmp_path / "run") == payload(uninterrupted)


def test_a_vanished_parent_ends_the_run_at_once(run_process, make_spec, tmp_path):
    spec = make_spec(tmp_path / "run")
    assert run_process(spec, ("lifeline", 2)) == 66
    assert CheckpointStore(tmp_path / "run" / "checkpoints").latest() is None


def test_a_finished_run_is_not_trained_again(make_spec, uninterrupted):
    """Only its last validation is repeated: the checkpoint is older than that."""
    before = (uninterrupted / "logs" / "timings.jsonl").read_text()
    events = []
    assert train(make_spec(uninterrupted), on_event=events.append)
    assert [event["event"] for event in events] == ["loading", "started", "validating", "validation", "done"]
    assert (uninterrupted / "logs" / "timings.jsonl").read_text() == before


@pytest.mark.parametrize("lost", ["model/model.safetensors", "metrics.jsonl", "summary.json"])
def test_a_lost_output_is_made_again_from_the_last_checkpoint(make_spec, uninterrupted, tmp_path, lost):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / lost).unlink()
    events = []
    assert train(make_spec(run), on_event=events.append)
    assert not [event for event in events if event["event"] == "step"]
    assert payload(run) == payload(uninterrupted)


def test_checkpoint_cadence_and_read_ahead_change_no_bit(make_spec, uninterrupted, tmp_path):
    placement = {"checkpoint_every_steps": 5, "data": {"memory_budget_bytes": 0, "prefetch_batches": 0}}
    assert train(make_spec(tmp_path, train=placement))
    assert payload(tmp_path) == payload(uninterrupted)


def test_a_checkpoint_of_another_recipe_is_refused(make_spec, tmp_path):
    assert train(make_spec(tmp_path, train={"max_steps": 2}))
    with pytest.raises(FingerprintMismatchError, match="another directory"):
        train(make_spec(tmp_path, train={"max_steps": 2, "seed": 1}))


def test_a_non_finite_loss_stops_before_the_step(run_process, make_spec, tmp_path):
    """A rate of 1e30 throws the weights out of float range in one step."""
    wild = make_spec(tmp_path, train={"optimizer": {"lr": 1e30, "schedule": "constant"}, "checkpoint_every_steps": 1})
    with pytest.raises(
        NonFiniteLossError, match=r"step 2 \(epoch 0\) on 8 clips of 'images'.*newest checkpoint is step 1"
    ):
        train(wild)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    assert CheckpointStore(tmp_path / "checkpoints").latest().step == 1
    assert run_process(wild) == 65


def test_loss_falls_and_retrieval_rises_above_chance(write_corpus, tiny_model, tmp_path):
    source = write_corpus(tmp_path, 45)
    val = source.model_copy(update={"split": "test"})
    config = {"batch_size": 12, "epochs": 20, "num_threads": 1, "data": {"num_frames": 4}}
    config["optimizer"] = {"lr": 3e-3, "schedule": "cosine", "clip_grad_norm": 1.0}
    spec = TrainSpec(model=tiny_model, train=config, sources=(source,), val=val, output=tmp_path / "run", device="cpu")
    assert train(spec)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    last = [row["val"] for row in rows if "val" in row][-1]
    assert last["t2v"]["R@1"] >= 5 * 100 / 9  # nine test clips; chance is 11 %
    assert last["v2t"]["R@1"] >= 5 * 100 / 9


def test_fine_tuning_starts_from_the_earlier_model_on_more_frames(make_spec, sources, uninterrupted, tmp_path):
    tune = {"data": {"num_frames": 4}, "max_steps": 1, "select": "last", "optimizer": {"lr": 1e-12}}
    before, after = uninterrupted / "model", tmp_path / "model"
    assert train(make_spec(tmp_path, train=tune, model=None, init_model=before, sources=sources[:1]))
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old["video_encoder.temporal_embedding"].shape[0] == 1
    assert new["video_encoder.temporal_embedding"].shape[0] == 4
    for name in set(old) - {"video_encoder.temporal_embedding"}:
        assert torch.allclose(old[name], new[name], atol=1e-9), name
    assert DualEncoder.from_pretrained(after).config.video.num_frames == 4


def test_bf16_trains(make_spec, tmp_path):
    assert train(make_spec(tmp_path, train={"precision": "bf16", "max_steps": 3}))
    assert all(row["loss"] > 0 for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row)


def test_clipping_bounds_the_step_not_the_reported_norm(make_spec, tmp_path):
    clipped = {"max_steps": 1, "select": "last", "optimizer": {"lr": 1e-3, "clip_grad_norm": 1e-3}}
    assert train(make_spec(tmp_path, train=clipped, val=None))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["grad_norm"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "exactly one of 'model'"),
        ({"val": None}, "no 'val' source"),
        ({"sources": ()}, "at least 1"),
        ({"device": "cpu", "train": TrainConfig(precision="fp16")}, "needs a CUDA device"),
        ({"train": TrainConfig(data={"num_frames": 9})}, "holds 4 per clip"),
    ],
)
def test_contradictions_are_refused(make_spec, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make_spec(tmp_path).model_copy(update=changes)) if "train" in changes else make_spec(tmp_path, **changes)


def test_features_of_another_width_are_refused(make_spec, tiny_model, tmp_path):
    wide = tiny_model.model_copy(update={"video": tiny_model.video.model_copy(update={"feature_dim": 99})})
    with pytest.raises(ValueError, match="regions have 12 numbers"):
        train(make_spec(tmp_path, model=wide))


def test_validation_uses_the_training_frames_without_chance():
    config = TrainConfig(data={"num_frames": 3, "max_regions": 5}, num_threads=1)
    found = validation_config(config)
    assert (found.data.num_frames, found.data.max_regions, found.data.frame_sampling) == (3, 5, "uniform")


def test_an_invalid_spec_is_exit_code_2(run_process, tmp_path, make_spec):
    spec = make_spec(tmp_path).model_copy(update={"sources": ()})
    assert run_process(spec) == 2
