"""One's own clips: from a folder or a list of files to a store that is searched with text."""

import shlex
from pathlib import Path
from typing import Any

from features.corpora.clips import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from flows.config import ConfigError, PipelineConfig, load_config, parse_config, read_tree
from flows.dag import Dag
from flows.graph import build_dag
from flows.run import run_config, say
from flows.status import left_out_clips
from storage.artifact import Workspace
from storage.errors import DamagedStoreError

# Clips left out that are named on a terminal, each on a line.
MAX_LISTED = 20


def embed_own(
    media: Path,
    captions: Path | None,
    *,
    name: str,
    using: str,
    model: str | None,
    workspace: Path,
    overrides: list[str],
    as_json: bool,
    plain: bool,
) -> None:
    """Sample, extract and embed one's own clips with the detector and model of the configuration ``using``.

    Args:
        media: folder of videos and images, or a CSV or JSONL that lists them.
        captions: CSV or JSONL with columns ``file`` and ``caption``; clips then come from it.
        name: name of the searchable store.
        model: model step of ``using``; its last fine-tuning, or its pre-training, if None.
    """
    config = own_config(media, captions, name=name, using=using, model=model, overrides=overrides)
    dag, place = build_dag(config), Workspace(workspace)
    trained = config.embed[name].model
    if place.find(dag.steps[trained].recipe) is None:
        text = f"{trained} of {using} is not done in {workspace}: it is trained first (is --workspace the one you trained in?)"
        say(as_json, text, event="trained-first", step=trained)
    run_config(config, workspace, until=f"embed-{name}", as_json=as_json, plain=plain)
    _say_what_is_searchable(dag, place, name, as_json=as_json)


def _say_what_is_searchable(dag: Dag, place: Workspace, name: str, *, as_json: bool) -> None:
    """How many clips can be found, and each that cannot with the reason: no clip goes missing without a word."""
    folders = [place.directory(dag.steps[f"{stage}-{name}"].recipe) for stage in ("corpora", "sample", "extract")]
    left_out = {
        row["clip_id"]: row for folder in reversed(folders) for row in left_out_clips(folder)
    }  # the first stage's reason
    store = place.find(dag.steps[f"embed-{name}"].recipe)
    count = store.facts["num_clips"]
    clips = [{key: row[key] for key in ("clip_id", "reason", "message")} for row in left_out.values()]
    text = f"{count} clips are searchable: regionvlp search 'what to look for' --name {name} --workspace {shlex.quote(str(place.root))}"
    say(as_json, text, event="searchable", name=name, clips=count, left_out=clips)
    if not as_json:
        for clip in clips[:MAX_LISTED]:
            say(as_json, f"  left out {clip['clip_id']} ({clip['reason']}): {clip['message']}")
        if len(clips) > MAX_LISTED:
            say(as_json, f"  left out {len(clips) - MAX_LISTED} more; --json lists all")


def own_config(
    media: Path, captions: Path | None, *, name: str, using: str, model: str | None, overrides: list[str]
) -> PipelineConfig:
    """The configuration ``using`` with one corpus and one searchable store added."""
    base = load_config(using, overrides)
    if name in base.corpora or name in base.embed:
        raise ConfigError(f"--name {name!r} is a corpus or a searchable store of {using} already; choose another name")
    _require_readable(media, captions)
    step = model or ([f"finetune-{task}" for task in base.finetune] or ["pretrain"])[-1]
    # The new corpus is sampled like the one the model was trained on: as many frames as it expects.
    section = base.finetune.get(step.removeprefix("finetune-")) if step.startswith("finetune-") else base.pretrain
    sampling = base.corpora[section.corpora[0]].sampling if section else next(iter(base.corpora.values())).sampling
    tree = read_tree(using)
    tree.setdefault("corpora", {})[name] = {
        "corpus": _corpus(media, captions),
        "sampling": sampling.model_dump(mode="json"),
    }
    tree.setdefault("embed", {})[name] = {"corpus": name, "model": step}
    return parse_config(tree, overrides, source=f"{using} + {media}")


def _require_readable(media: Path, captions: Path | None) -> None:
    for path in (media, captions):
        if path is not None and not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
    if media.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS and media.is_file():
        raise ConfigError(f"{media}: is one clip; give the folder it is in, or a CSV or JSONL that lists clips")
    if captions is not None and not media.is_dir():
        raise ConfigError(f"{media}: with --captions the first argument must be the folder of the clips")


def _corpus(media: Path, captions: Path | None) -> dict[str, Any]:
    if captions is not None:
        return {"kind": "table", "annotations": str(captions), "media_root": str(media), "require_captions": False}
    if media.is_dir():
        return {"kind": "folder", "media_root": str(media)}
    return {"kind": "table", "annotations": str(media), "media_root": str(media.parent), "require_captions": False}


def search_own(query: str, *, name: str, workspace: Path, top: int) -> list[dict[str, Any]]:
    """The ``top`` clips of the newest store of that name, best first.

    Raises:
        ConfigError: no such store, or an empty query.
        DamagedStoreError: a file of the store is missing or has another size.
    """
    if not query.strip():
        raise ConfigError("the query is empty; say what to look for")
    place = Workspace(workspace)
    found = [a for a in place.artifacts("embed") if a.name == name] + [
        a for a in place.artifacts("evaluate") if a.name == name
    ]
    if not found:
        names = sorted({artifact.name for artifact in place.artifacts("embed")})
        raise ConfigError(
            f"no searchable store {name!r} in {workspace}; there is {names}; make one with 'regionvlp embed'"
        )
    from vlp.tasks.retrieval import search

    newest = max(found, key=lambda artifact: artifact.record["finished"])
    problem = newest.problem()
    if problem is not None:
        raise DamagedStoreError(
            f"{newest.stage}/{newest.path.name}: {problem}; run the command that made it again, it is mended"
        )
    return search(newest.path, query, top_k=top)
