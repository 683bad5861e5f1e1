"""Identity as text: the same recipe gives the same 64 hex digits on every machine, and nothing else does.

A value is written as canonical JSON (sorted keys, ASCII, no spaces, shortest float form) and hashed with sha256. A value
whose text could differ between two runs (a set, an object, NaN) raises instead of hashing its address. As in RFC 8785 a
whole-numbered float reads as the integer: pydantic turns a YAML `1` into 1.0 but leaves a default `1` alone.
Config fields marked `json_schema_extra={"placement": True}` say where or how, not what, and never enter.
"""

import datetime
import decimal
import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from storage.durable import digest_file
from storage.errors import UnhashableIdentityError

__all__ = ["canonical_json", "digest_file", "fingerprint", "identity"]

_EXACT_INTEGERS = 2.0**53  # every whole number below it is a float of its own
_TEXT_TYPES = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def canonical_json(value: Any) -> str:
    """One text per value: None, bool, int, finite float, str, list, tuple, dict with str keys, Enum, pydantic model.

    A tuple reads as a list, an Enum as its value, a model as `identity(model)`, 1.0 as 1 and -0.0 as 0.

    Raises:
        UnhashableIdentityError: anything else; the message names the place inside the value, such as `a.b[2]`.
    """
    plain = _plain(value, "")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits: sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def identity(model: BaseModel) -> dict[str, Any]:
    """The config values that change a result: the model as JSON values without its placement fields, at any depth.

    Paths, dates, decimals and UUIDs become their text, as in `model_dump(mode="json")`.

    Raises:
        UnhashableIdentityError: a field holds a value without a deterministic text (a set, an array, NaN).
    """
    return _model_identity(model, "", in_model=True)


def is_placement(field: Any) -> bool:
    """True where a pydantic FieldInfo is marked `json_schema_extra={"placement": True}`."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and extra.get("placement") is True


def _model_identity(model: BaseModel, place: str, *, in_model: bool) -> Any:
    if isinstance(model, RootModel):
        return _plain(model.root, place, in_model=in_model)
    fields = type(model).model_fields
    result = {
        name: _plain(getattr(model, name), f"{place}.{name}" if place else name, in_model=in_model)
        for name, field in fields.items()
        if not is_placement(field)
    }
    for name, extra in (model.model_extra or {}).items():
        result[name] = _plain(extra, f"{place}.{name}" if place else name, in_model=in_model)
    return result


def _plain(value: Any, place: str, *, in_model: bool = False) -> Any:
    """The value in plain JSON types; `in_model` also admits what pydantic fields commonly hold (paths, dates)."""
    if isinstance(value, Enum):
        return _plain(value.value, place, in_model=in_model)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _unhashable(value, place, "is not a finite number")
        return int(value) if value.is_integer() and abs(value) < _EXACT_INTEGERS else float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, BaseModel):
        return _model_identity(value, place, in_model=True)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]", in_model=in_model) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return _plain_dict(value, place, in_model=in_model)
    if in_model and isinstance(value, PurePath):
        return value.as_posix()
    if in_model and isinstance(value, _TEXT_TYPES):
        return to_jsonable_python(value)
    raise _unhashable(value, place, "has no deterministic text")


def _plain_dict(value: dict, place: str, *, in_model: bool) -> dict[str, Any]:
    result = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _unhashable(key, place, "is a dictionary key that is not a string")
        plain_key = str(key.value) if isinstance(key, Enum) else str(key)
        result[plain_key] = _plain(item, f"{place}.{plain_key}" if place else plain_key, in_model=in_model)
    return result


def _unhashable(value: Any, place: str, problem: str) -> UnhashableIdentityError:
    return UnhashableIdentityError(
        f"identity at {place or 'top level'}: {value!r} ({type(value).__name__}) {problem}; allowed are None, bool, int, "
        "finite float, str, list, tuple, dict with string keys, Enum and pydantic models; mark a field that does not "
        'change the result json_schema_extra={"placement": True}'
    )
