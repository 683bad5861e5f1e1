"""What differs between two recipes, as dotted fields a person can act on."""

from dataclasses import dataclass
from typing import Any, Literal

from storage.fingerprint import canonical_json

NOT_SET = "(not set)"


@dataclass(frozen=True)
class Difference:
    """One reason why a stage would run.

    Args:
        kind: "config", "input", "code_version", "output" (a file is gone or has another size) or "absent".
        field: dotted config field, input role, output path, or the record's name.
        old: value there; NOT_SET if the field is new; None if there is nothing to compare with.
        new: value wanted, or what was found.
    """

    kind: Literal["config", "input", "code_version", "output", "absent"]
    field: str
    old: Any
    new: Any


def flat_differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted field, old, new) for every leaf that differs, in the order of sorted keys.

    Dictionaries are compared by key, lists of equal length by index if they hold dictionaries, all else as a whole.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{place}.{key}" if place else key
            found += flat_differences(old.get(key, NOT_SET), new.get(key, NOT_SET), inner)
        return found
    if _lists_of_models(old, new):
        pairs = enumerate(zip(old, new, strict=True))
        return [item for index, (a, b) in pairs for item in flat_differences(a, b, f"{place}[{index}]")]
    return [] if canonical_json(old) == canonical_json(new) else [(place, old, new)]


def _lists_of_models(old: Any, new: Any) -> bool:
    both = isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new)
    return both and any(isinstance(item, dict) for item in (*old, *new))
