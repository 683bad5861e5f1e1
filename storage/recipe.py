"""Recipes: what an artifact is made from. Its fingerprint is the artifact's identity; its folder name follows from it."""

import copy
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.durable import TEMPORARY_MARK
from storage.fingerprint import fingerprint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# "/data", "/home/a b/c", "C:\data", "file:///data"; but neither "/" nor "/ a caption" nor "/shrug at it".
_ABSOLUTE = re.compile(r"/[^\s/]+|/[^\s/].*/.*|[A-Za-z]:[\\/].*|file://.*")


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from; equal recipes have equal outputs.

    Args:
        stage: such as "extract"; first folder below the workspace.
        name: label for people, such as the config's name; not part of the fingerprint.
        config: identity values of the stage's config (`storage.fingerprint.identity`).
        inputs: role -> fingerprint of an input artifact or digest of a file.
        code_version: integer the stage's author raises when its output changes.
    Raises:
        ValueError: stage or name cannot be a folder name, or the config holds an absolute path (that is placement).
        UnhashableIdentityError: a value has no deterministic text.
    """

    stage: str
    name: str
    config: dict[str, Any]
    inputs: dict[str, str]
    code_version: int

    def __post_init__(self) -> None:
        for word, value in (("stage", self.stage), ("name", self.name)):
            if not _NAME.fullmatch(value) or TEMPORARY_MARK in value:
                raise ValueError(
                    f"recipe {word} {value!r}: must be letters, digits, '.', '_' and '-', starting with a letter or digit"
                )
        path = _first_absolute_path(self.config, "")
        if path is not None:
            raise ValueError(
                f"recipe of stage {self.stage!r}: config field {path[0]} is the absolute path {path[1]!r}; where a file "
                "lies is placement: leave it out and put the file's digest into inputs"
            )
        bad = [role for role, value in self.inputs.items() if not isinstance(value, str)]
        if bad:
            raise ValueError(f"recipe of stage {self.stage!r}: inputs {bad} must be fingerprints or digests, as text")
        object.__setattr__(
            self, "config", copy.deepcopy(self.config)
        )  # a later change must not outdate the fingerprint
        object.__setattr__(self, "inputs", dict(self.inputs))
        object.__setattr__(self, "_fingerprint", fingerprint(self._identity()))

    @property
    def fingerprint(self) -> str:
        """64 hex digits over stage, config, inputs and code_version."""
        return self._fingerprint  # type: ignore[attr-defined]

    @property
    def directory_name(self) -> str:
        return f"{self.name}-{self.fingerprint[:8]}"

    def _identity(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "config": self.config,
            "inputs": self.inputs,
            "code_version": self.code_version,
        }


def without_absolute_paths(value: Any) -> Any:
    """The value with each absolute path cut to `.../name`: a record must mean the same on another machine."""
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        return f".../{PurePosixPath(value.replace(chr(92), '/')).name}"
    if isinstance(value, dict):
        return {without_absolute_paths(key): without_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(item) for item in value]
    return value


def _first_absolute_path(value: Any, place: str) -> tuple[str, str] | None:
    if isinstance(value, str):
        return (place, value) if _ABSOLUTE.fullmatch(value) else None
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    return next((found for inner, item in items if (found := _first_absolute_path(item, inner))), None)
