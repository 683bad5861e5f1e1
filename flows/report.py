"""The report: everything the finished steps say, gathered and rendered as one self-contained page and one JSON file."""

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from flows.build import work_seconds
from flows.config import PipelineConfig
from flows.dag import Step, StepRun
from flows.report_dag import direct_needs, draw_dag
from flows.report_pictures import Allowance, gather_examples
from flows.report_scores import (
    LOSSES,
    MAX_CLIPS,
    METRICS,
    describe_detector,
    gather_curves,
    gather_evaluations,
    gather_trainings,
    percent,
)
from storage.artifact import Artifact
from storage.ledger import SCHEMA, read_ledger

TEMPLATE = "report.html.j2"
# All pictures together, as base64. With text, style and the rest the page stays below 3 MB, which mail programs let through.
MAX_PICTURE_BYTES = 2_300_000


def write_report(config: PipelineConfig, steps: Mapping[str, Step], run: StepRun) -> dict[str, Any]:
    """Write report.html and summary.json into the step's folder.

    Args:
        steps: the steps shown, in an order in which they can run; ``run.inputs`` has the artifact of each under its name.
    Returns:
        Facts for the record: size of the page, pictures left out for its size.
    """
    allowance = Allowance(MAX_PICTURE_BYTES)
    view = gather(config, steps, run, allowance)
    page = render(view)
    summary = json.dumps(summarize(config, view), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (run.directory / "report.html").write_text(page, encoding="utf-8")
    (run.directory / "summary.json").write_text(summary + "\n", encoding="utf-8")
    return {"page_bytes": len(page.encode("utf-8")), "pictures_left_out": allowance.refused}


def render(view: Mapping[str, Any]) -> str:
    """The page; every value but our own drawing is escaped, a value the template lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(files("flows") / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(view)


def gather(config: PipelineConfig, steps: Mapping[str, Step], run: StepRun, allowance: Allowance) -> dict[str, Any]:
    """Everything the template shows, as plain values."""
    inputs = run.inputs
    evaluations = gather_evaluations(config, inputs)
    trainings = gather_trainings(config, inputs)
    ledgers = {name: ledger_of(artifact) for name, artifact in inputs.items()}
    failures = gather_failures(ledgers)
    seconds = {name: work_seconds(inputs[name]) for name in steps}
    detector = describe_detector(config, inputs)
    return {
        "name": config.name,
        "tiles": _tiles(evaluations, trainings, _count_lost(inputs, ledgers), sum(seconds.values())),
        "summary": _summary(config, evaluations, trainings),
        "detector": detector,
        "evaluations": evaluations,
        "metric_columns": METRICS,
        "trainings": [{**training, "time": duration(seconds[training["step"]])} for training in trainings],
        "loss_columns": list(LOSSES),
        "curves": gather_curves(config, inputs, allowance),
        "examples": gather_examples(config, inputs, allowance),
        "steps": _step_rows(steps, run, seconds),
        "total_time": duration(sum(seconds.values())),
        "dag_svg": draw_dag(steps, seconds),
        "failures": failures,
        "max_clips": MAX_CLIPS,
        "provenance": gather_provenance(inputs),
        "packages": _packages(inputs),
        "config_yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110),
    }


def summarize(config: PipelineConfig, view: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the report that follow from the recipe alone: no times, hosts or versions."""
    return {
        "name": config.name,
        "fingerprints": {step["name"]: step["fingerprint"] for step in view["steps"]},
        "detector": view["detector"]["metrics"],
        "trainings": {
            training["step"]: {key: training[key] for key in ("losses", "clips", "num_steps", "num_epochs")}
            for training in view["trainings"]
        },
        "evaluations": {evaluation["name"]: _evaluation_numbers(evaluation) for evaluation in view["evaluations"]},
        "failures": [{key: f[key] for key in ("step", "status", "reason", "count")} for f in view["failures"]],
    }


def _evaluation_numbers(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("metrics", "chance", "num_queries", "num_candidates")
    return {
        **{key: evaluation[key] for key in ("corpus", "split", "model")},
        "excluded": {item["reason"]: item["count"] for item in evaluation["excluded"]},
        **{direction["key"]: {key: direction[key] for key in kept} for direction in evaluation["directions"]},
    }


def ledger_of(artifact: Artifact) -> pa.Table:
    """All ledger rows of a step, with all its shards; empty for a step that keeps none."""
    paths = [*artifact.path.glob("ledger.parquet"), *sorted(artifact.path.glob("ledger/*.parquet"))]
    return pa.concat_tables([SCHEMA.empty_table(), *(read_ledger(path) for path in paths)])


def gather_failures(ledgers: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """Clips that are not ok, by step, status and reason, with the first of their ids."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, ledger in ledgers.items():
        for row in ledger.filter(pc.field("status") != "ok").to_pylist():
            key = (name, row["status"], row["reason"])
            entry = found.setdefault(key, {"count": 0, "clip_ids": [], "message": row["message"]})
            entry["count"] += 1
            if len(entry["clip_ids"]) < MAX_CLIPS:
                entry["clip_ids"].append(row["clip_id"])
    return [{"step": s, "status": status, "reason": reason, **rest} for (s, status, reason), rest in found.items()]


def _count_lost(inputs: Mapping[str, Artifact], ledgers: Mapping[str, pa.Table]) -> int:
    """Clips that are not ok in some stage; one that fails in several counts once."""
    lost = set()
    for name, ledger in ledgers.items():
        ids = ledger.filter(pc.field("status") != "ok")["clip_id"].to_pylist()
        lost |= {
            (inputs[name].name, clip_id) for clip_id in ids
        }  # steps that keep a ledger are named after their corpus
    return len(lost)


def _step_rows(steps: Mapping[str, Step], run: StepRun, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {
            "name": name,
            "state": str(run.workspace.state(step.recipe).status),
            "fingerprint": step.recipe.fingerprint,
            "needs": direct_needs(steps, name),
            "time": duration(seconds[name]),
            "share": seconds[name] / longest,
            "size": size(sum(entry["bytes"] for entry in run.inputs[name].outputs.values())),
        }
        for name, step in steps.items()
    ]


def gather_provenance(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Commit, host, Python and dates, each with the steps that differ."""
    records = {name: artifact.record for name, artifact in inputs.items()}
    facts = {
        "Git commit": {name: _commit(record.get("git")) for name, record in records.items()},
        "Host": {name: record["host"] for name, record in records.items()},
        "Python": {name: record["python"] for name, record in records.items()},
    }
    rows = [{"name": name, "values": distinct(values)} for name, values in facts.items()]
    if records:
        first, last = min(r["started"] for r in records.values()), max(r["finished"] for r in records.values())
        when = [{"text": f"{_minute(first)} to {_minute(last)} UTC", "steps": []}]
        rows.append({"name": "Made", "values": when})
    return rows


def distinct(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Distinct values with the names that have each; no names where all agree."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return [{"text": text, "steps": who if len(names) > 1 else []} for text, who in names.items()]


def _packages(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    records = {name: artifact.record["packages"] for name, artifact in inputs.items()}
    names = sorted({package for packages in records.values() for package in packages})
    return [
        {
            "name": package,
            "values": distinct({step: found.get(package, "not installed") for step, found in records.items()}),
        }
        for package in names
    ]


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "not a git checkout"
    return git["commit"] + (" with uncommitted changes" if git["dirty"] else "")


def _minute(stamp: str) -> str:
    return datetime.fromisoformat(stamp).strftime("%Y-%m-%d %H:%M")


def _tiles(evaluations: list, trainings: list, lost: int, seconds: float) -> list[dict[str, str]]:
    tiles = []
    if evaluations:
        last = evaluations[-1]
        for direction in last["directions"]:
            chance = f"{last['name']}, chance {percent(direction['chance']['R@1'])}"
            tiles.append(
                {"label": f"R@1 {direction['label']}", "value": percent(direction["metrics"]["R@1"]), "note": chance}
            )
    if trainings:
        clips = ", ".join(t["step"] for t in trainings)
        tiles.append(
            {"label": "Clips trained on", "value": f"{sum(_corpus_clips(trainings).values()):,}", "note": clips}
        )
    tiles.append(
        {
            "label": "Clips failed or left out",
            "value": f"{lost:,}",
            "note": "see Failures" if lost else "every clip passed",
        }
    )
    tiles.append({"label": "Work", "value": duration(seconds), "note": "all steps, as built last"})
    return tiles


def _corpus_clips(trainings: list) -> dict[str, int]:
    """Clips trained on by corpus; one trained on twice counts once."""
    return {corpus: count for training in trainings for corpus, count in training["clips"].items()}


def _summary(config: PipelineConfig, evaluations: list, trainings: list) -> str:
    """One paragraph: what was trained on how many clips, and how well it finds clips and captions."""
    runs = []
    for training in trainings:
        clips = " and ".join(f"{count:,} clips of corpus “{corpus}”" for corpus, count in training["clips"].items())
        runs.append(f"on {clips} for {training['num_steps']:,} steps ({training['step']})")
    parts = [f"The region-word dual encoder was trained {', then '.join(runs)}." if runs else "No model was trained."]
    if evaluations:
        last = evaluations[-1]
        text, video = last["directions"]
        chance = [percent(direction["chance"]["R@1"]) for direction in (text, video)]
        parts.append(
            f"On the {last['split']} split of “{last['corpus']}”, {last['model']} ranks the right clip first for "
            f"{percent(text['metrics']['R@1'])} of {text['num_queries']:,} captions (chance {chance[0]}), and a right caption first for "
            f"{percent(video['metrics']['R@1'])} of {video['num_queries']:,} clips (chance {chance[1]})."
        )
    source = "trained in this run" if config.detector.train else "loaded from a weights file"
    parts.append(f"Regions come from the {config.detector.model.preset} Faster R-CNN, {source}.")
    return " ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people: '4.2 s', '3 min 07 s', '2 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: int) -> str:
    """Bytes for people, in powers of 1000."""
    for limit, unit, digits in ((1e3, "B", 0), (1e6, "kB", 0), (1e9, "MB", 1), (1e12, "GB", 1)):
        if num_bytes < limit:
            return f"{num_bytes / (limit / 1e3):.{digits}f} {unit}"
    return f"{num_bytes / 1e12:.1f} TB"
