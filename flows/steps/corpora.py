"""Annotation files -> manifest: one Parquet table, a row per clip."""

import json
from typing import Any

from features.corpora.build import build_corpus, corpus_identity
from flows.build import StageFailedError
from flows.config import CorpusSection
from flows.dag import Step, StepRun
from storage.artifact import Recipe
from storage.ledger import LedgerRow, write_ledger
from storage.manifest import Manifest

CODE_VERSION = 1


def step(name: str, section: CorpusSection) -> Step:
    """The step that reads a corpus (or generates the demo's)."""
    recipe = Recipe("corpora", name, corpus_identity(section.corpus), {}, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        built = build_corpus(section.corpus, run.directory)
        if not built.clips:
            raise StageFailedError(_no_clips(name, built.ledger))
        Manifest.write(run.directory / "manifest.parquet", built.clips)
        write_ledger(run.directory / "ledger.parquet", built.ledger)
        summary = {"num_clips": len(built.clips), "num_left_out": len(built.ledger), **built.facts}
        (run.directory / "summary.json").write_text(
            json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        return summary

    return Step(f"corpora-{name}", recipe, {}, finish)


def _no_clips(name: str, ledger: list[LedgerRow]) -> str:
    if not ledger:
        return f"corpus {name!r} has no clip: its annotation file or folder lists no video and no image"
    first = ledger[0]
    return f"corpus {name!r} has no usable clip: all {len(ledger)} were left out, the first ({first.clip_id!r}) because of {first.message}"
