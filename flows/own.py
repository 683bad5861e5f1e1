"""One's own clips: from a folder or a list of files to a store that is searched with text."""

from pathlib import Path
from typing import Any

from flows.config import ConfigError, PipelineConfig, load_config, parse_config, read_tree
from flows.run import run_config
from storage.artifact import Workspace


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
    run_config(config, workspace, until=f"embed-{name}", as_json=as_json, plain=plain)


def own_config(
    media: Path, captions: Path | None, *, name: str, using: str, model: str | None, overrides: list[str]
) -> PipelineConfig:
    """The configuration ``using`` with one corpus and one searchable store added."""
    base = load_config(using, overrides)
    if name in base.corpora:
        raise ConfigError(f"--name {name!r} is a corpus of {using} already; choose another name")
    if not media.exists():
        raise ConfigError(f"{media}: no such file or folder")
    step = model or ([f"finetune-{task}" for task in base.finetune] or ["pretrain"])[-1]
    # The new corpus is sampled like the one the model was trained on: as many frames as it expects.
    section = base.finetune[step.removeprefix("finetune-")] if step.startswith("finetune-") else base.pretrain
    sampling = base.corpora[section.corpora[0]].sampling if section else next(iter(base.corpora.values())).sampling
    tree = read_tree(using)
    tree.setdefault("corpora", {})[name] = {
        "corpus": _corpus(media, captions),
        "sampling": sampling.model_dump(mode="json"),
    }
    tree.setdefault("embed", {})[name] = {"corpus": name, "model": step}
    return parse_config(tree, overrides, source=f"{using} + {media}")


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
    return search(newest.path, query, top_k=top)
