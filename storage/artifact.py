"""Artifacts: a stage's output plus the record that says what it is. Here alone is decided what is done.

    workspace/extract/demo-1a2b3c4d/          {stage}/{name}-{fingerprint[:8]}
        artifact.json                         written last: recipe, outputs with size and digest, provenance
        ...                                   outputs
        leases/  logs/  *.tmp-*               bookkeeping, no outputs

Done = the record is present, its full fingerprint equals the recipe's, and every output is present with its size.
`Workspace.verify` also re-hashes. The folder name follows from the recipe, so finding an artifact scans nothing.
A peer's empty marker file knows no config, and a scheduler's database forgets; the record is the only truth.
"""

import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from storage.commits import COMMITS, LEASES, LEDGERS, PARTS, committed_entries, count_commits, size_problem
from storage.differences import Difference, flat_differences
from storage.durable import (
    TEMPORARY_MARK,
    digest_file,
    file_entry,
    naming_disk_full,
    remove_tree,
    replace_file,
    sync_tree,
    tree_files,
)
from storage.errors import DamagedStoreError, FingerprintMismatchError, OutputMissingError
from storage.lease import DEFAULT_TTL_SECONDS, Lease, is_live, read_owner
from storage.provenance import provenance
from storage.recipe import Recipe, without_absolute_paths

RECORD = "artifact.json"
_LEASE = "artifact.lease"

__all__ = [
    "Artifact",
    "ArtifactState",
    "Build",
    "Difference",
    "Recipe",
    "Workspace",
    "payload_digests",
]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact as its record describes it.

    `outputs` maps a path relative to `path` to {"bytes", "digest"}; `seconds` is the wall time of the last build;
    `record` is the whole record (git, packages, host, times).
    """

    path: Path
    stage: str
    name: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    code_version: int
    outputs: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    seconds: float
    record: dict[str, Any]

    def file(self, relative: str) -> Path:
        """Path of an output file, or of a folder that holds outputs. Raises OutputMissingError otherwise."""
        clean = PurePosixPath(relative).as_posix()
        is_known = clean in self.outputs or any(name.startswith(f"{clean}/") for name in self.outputs)
        path = self.path / clean
        if not is_known or not path.exists():
            raise OutputMissingError(
                f"{self.stage}/{self.path.name}: no output {relative!r}; it has {_some(sorted(self.outputs))}"
            )
        return path

    def problem(self) -> str | None:
        """First output that is missing or has another size, as a phrase; None if the artifact is done."""
        for name, entry in self.outputs.items():
            found = size_problem(self.path / name, entry["bytes"])
            if found is not None:
                return f"output {name} {found}"
        return None

    @classmethod
    def read(cls, directory: Path) -> "Artifact":
        """Raises FileNotFoundError without a record; DamagedStoreError when the record is not complete."""
        label = f"{directory.parent.name}/{directory.name}"
        try:
            record = json.loads((directory / RECORD).read_bytes())
            names = ("stage", "name", "fingerprint", "config", "inputs", "code_version", "outputs", "facts", "seconds")
            return cls(path=directory, **{name: record[name] for name in names}, record=record)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{label}: no {RECORD}; the stage has not finished") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedStoreError(
                f"{label}: {RECORD} is not a complete record ({error}); run the stage again"
            ) from error


@dataclass(frozen=True)
class ArtifactState:
    """Where a recipe stands; `detail` says it in words, such as "12 of 40 shards committed"."""

    status: Literal["done", "partial", "absent", "damaged"]
    detail: str = ""


@dataclass
class Build:
    """An artifact being made; its lease is held until the `building` block ends.

    `directory` is where the stage writes; `previous` is the finished artifact if there already was one.
    """

    recipe: Recipe
    directory: Path
    lease: Lease
    started: datetime.datetime
    previous: Artifact | None = None

    def commit(
        self,
        *,
        outputs: Sequence[str] | None = None,
        facts: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Artifact:
        """Record the outputs; from here on the artifact is done.

        Args:
            outputs: files relative to the directory; None = every file below it except bookkeeping.
            facts: JSON values worth keeping (counts, scores).
            config: full config with placement, for people; default the recipe's. Absolute paths are cut to `.../name`.
        Raises:
            OutputMissingError: a named output is missing, or there is none at all.
            ValueError: an output outside the directory, or a fact that JSON cannot hold (NaN).
            DamagedStoreError: a committed part is damaged.
            LeaseLostError: another process took over.
            DiskFullError: no room for the record.
        """
        label = f"{self.recipe.stage}/{self.directory.name}"
        self.lease.check()
        entries = _output_entries(self.directory, label, outputs)
        finished = datetime.datetime.now(datetime.UTC)
        record = {
            "stage": self.recipe.stage,
            "name": self.recipe.name,
            "fingerprint": self.recipe.fingerprint,
            "config": self.recipe.config,
            "full_config": without_absolute_paths(self.recipe.config if config is None else config),
            "inputs": self.recipe.inputs,
            "code_version": self.recipe.code_version,
            "outputs": entries,
            "facts": without_absolute_paths(facts or {}),
            "started": self.started.isoformat(timespec="milliseconds"),
            "finished": finished.isoformat(timespec="milliseconds"),
            "seconds": (finished - self.started).total_seconds(),
            **provenance(),
        }
        data = _record_bytes(record, label)
        self.lease.check()
        replace_file(self.directory / RECORD, data, subject=f"record of {label}")
        return Artifact.read(self.directory)


class Workspace:
    """A folder of artifacts. Paths in it are relative, so it can be moved or copied whole.

    Raises:
        NotADirectoryError: `root` is a file.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise NotADirectoryError(f"workspace {self.root} is a file, not a folder; choose another one")

    def directory(self, recipe: Recipe) -> Path:
        """Where the recipe's artifact lives, made or not."""
        return self.root / recipe.stage / recipe.directory_name

    def find(self, recipe: Recipe) -> Artifact | None:
        """The recipe's artifact if it is done, else None. Sizes are checked, contents are not (see `verify`)."""
        try:
            artifact = Artifact.read(self.directory(recipe))
        except (FileNotFoundError, DamagedStoreError):
            return None
        if artifact.fingerprint != recipe.fingerprint or artifact.problem() is not None:
            return None
        return artifact

    def state(self, recipe: Recipe) -> ArtifactState:
        """Done, partial, absent or damaged, with the reason."""
        directory = self.directory(recipe)
        try:
            artifact = Artifact.read(directory)
        except FileNotFoundError:
            return _unfinished_state(directory)
        except DamagedStoreError as error:
            return ArtifactState("damaged", str(error))
        if artifact.fingerprint != recipe.fingerprint:
            return ArtifactState("damaged", f"its record is of recipe {artifact.fingerprint}, not {recipe.fingerprint}")
        problem = artifact.problem()
        return (
            ArtifactState("damaged", problem) if problem else ArtifactState("done", f"{len(artifact.outputs)} outputs")
        )

    @contextmanager
    def building(self, recipe: Recipe, *, ttl_seconds: float = DEFAULT_TTL_SECONDS) -> Iterator[Build]:
        """Hold the artifact's lease while the block makes it; call `commit` on the Build at the end.

        A record whose outputs are damaged is removed first; the outputs that are right stay, and the stage resumes from
        its committed shards.

        Raises:
            LeaseHeldError: another live process is making it.
            FingerprintMismatchError: the folder belongs to another recipe with the same first eight digits.
            DiskFullError: the block ran out of disk space.
        """
        directory = self.directory(recipe)
        label = f"{recipe.stage}/{directory.name}"
        started = datetime.datetime.now(datetime.UTC)
        with naming_disk_full(label):
            directory.mkdir(parents=True, exist_ok=True)
            with Lease.acquire(directory / LEASES / _LEASE, subject=label, ttl_seconds=ttl_seconds) as lease:
                _remove_litter(directory)
                previous = self.find(recipe)
                if previous is None:
                    _remove_damaged_record(directory, recipe)
                yield Build(recipe, directory, lease, started, previous)

    def artifacts(self, stage: str | None = None) -> Iterator[Artifact]:
        """Artifacts with a readable record, by stage and folder name; a damaged output does not hide one."""
        for path in sorted(self.root.glob(f"{stage or '*'}/*/{RECORD}")):
            try:
                yield Artifact.read(path.parent)
            except DamagedStoreError:
                continue

    def why(self, recipe: Recipe) -> list[Difference]:
        """Why the stage would run: what differs between the recipe and what is there. [] = it would not run.

        A record of this very recipe is compared by its outputs; otherwise the newest artifact of the same stage and
        name is compared field by field.
        """
        directory = self.directory(recipe)
        try:
            artifact = Artifact.read(directory)
        except (FileNotFoundError, DamagedStoreError):
            artifact = None
        if artifact is not None and artifact.fingerprint == recipe.fingerprint:
            problems = {name: size_problem(artifact.path / name, e["bytes"]) for name, e in artifact.outputs.items()}
            return [
                Difference("output", name, f"{artifact.outputs[name]['bytes']} bytes", problem)
                for name, problem in problems.items()
                if problem
            ]
        state = self.state(recipe)
        found = [] if state.status == "absent" else [Difference("absent", RECORD, None, state.detail)]
        newest = self._newest_like(recipe)
        if newest is not None:
            return found + _recipe_differences(newest, recipe)
        nothing = f"no finished artifact of stage {recipe.stage!r} named {recipe.name!r}"
        return found or [Difference("absent", RECORD, None, nothing)]

    def verify(self, artifact: Artifact) -> list[str]:
        """Re-hash every output. Problems as sentences that say what to do; [] = good."""
        problems = []
        for name, entry in artifact.outputs.items():
            problem = size_problem(artifact.path / name, entry["bytes"])
            if problem is None and digest_file(artifact.path / name) != entry["digest"]:
                problem = f"has other content than its record says ({entry['digest']})"
            if problem is not None:
                place = f"{artifact.stage}/{artifact.path.name}/{name}"
                problems.append(f"{place} {problem}; delete the file and run the stage again, only it is remade")
        return problems

    def _newest_like(self, recipe: Recipe) -> Artifact | None:
        alike = [artifact for artifact in self.artifacts(recipe.stage) if artifact.name == recipe.name]
        return max(alike, key=lambda artifact: (artifact.record.get("finished", ""), artifact.path.name), default=None)


def _record_bytes(record: dict[str, Any], label: str) -> bytes:
    try:
        return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError) as error:
        raise type(error)(f"{label}: facts and config must hold JSON values, finite numbers only ({error})") from error


def _output_entries(directory: Path, label: str, outputs: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Size and digest of every output, all of them synced to disk."""
    names = sorted(set(outputs)) if outputs is not None else _output_names(directory)
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise ValueError(f"{label}: outputs {_some(outside)} must be paths relative to the artifact, without '..'")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing or not names:
        found = f"output {_some(missing)} is missing" if missing else "it has no output file at all"
        raise OutputMissingError(f"{label}: {found}; nothing is recorded")
    known = committed_entries(directory)
    sync_tree(directory)
    return {name: known.get(name) or file_entry(directory / name) for name in names}


def payload_digests(artifact_dir: Path | str) -> dict[str, str]:
    """Relative path -> digest of every payload file: what must be byte-equal between two runs of one recipe.

    Left out because they carry times, hosts or attempts: artifact.json, commits/, ledger/, leases/, logs/, *.tmp-*.
    """
    directory = Path(artifact_dir)
    return {
        name: digest_file(directory / name)
        for name in _output_names(directory)
        if PurePosixPath(name).parts[0] not in (COMMITS, LEDGERS)
    }


def _output_names(directory: Path) -> list[str]:
    """Files below the directory that are no bookkeeping."""
    return [
        name
        for name in tree_files(directory)
        if name != RECORD and name.partition("/")[0] not in (LEASES, "logs") and TEMPORARY_MARK not in name
    ]


def _unfinished_state(directory: Path) -> ArtifactState:
    """State of a folder without a record."""
    if not directory.is_dir():
        return ArtifactState("absent", "never started")
    counted = count_commits(directory)
    detail = "started, not finished" if counted is None else f"{counted[0]} of {counted[1]} shards committed"
    lease = directory / LEASES / _LEASE
    owner = read_owner(lease)
    if owner is not None and is_live(lease):
        detail += f"; being made by pid {owner.pid} on host {owner.host}"
    elif counted is None and not _output_names(directory):
        return ArtifactState("absent", "started, nothing written yet")
    return ArtifactState("partial", detail)


def _remove_litter(directory: Path) -> None:
    """Remove temporary files of killed builds; shards have live writers of their own and sweep theirs (PartSet.sweep)."""
    for path in sorted(directory.rglob(f"*{TEMPORARY_MARK}*")):
        if path.relative_to(directory).parts[0] in (PARTS, COMMITS, LEDGERS, LEASES):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_damaged_record(directory: Path, recipe: Recipe) -> None:
    try:
        artifact = Artifact.read(directory)
    except (FileNotFoundError, DamagedStoreError):
        artifact = None
    if artifact is not None and artifact.fingerprint != recipe.fingerprint:
        raise FingerprintMismatchError(
            f"{recipe.stage}/{directory.name}: belongs to recipe {artifact.fingerprint}, this one is {recipe.fingerprint}; "
            "rename the config or remove that folder"
        )
    (directory / RECORD).unlink(missing_ok=True)


def _recipe_differences(artifact: Artifact, recipe: Recipe) -> list[Difference]:
    found = [Difference("config", *difference) for difference in flat_differences(artifact.config, recipe.config)]
    found += [Difference("input", *difference) for difference in flat_differences(artifact.inputs, recipe.inputs)]
    if artifact.code_version != recipe.code_version:
        found.append(Difference("code_version", "code_version", artifact.code_version, recipe.code_version))
    return found


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
