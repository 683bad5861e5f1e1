"""Identity as text: stable across machines, blind to placement, loud about what it cannot hash."""

import datetime
import enum
import json
import math
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel

from storage.errors import UnhashableIdentityError
from storage.fingerprint import canonical_json, digest_file, fingerprint, identity

PLACEMENT = {"placement": True}
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = "red"


class Grade(enum.StrEnum):
    HIGH = "high"


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    rate: float = 1
    device: str = Field("cpu", json_schema_extra=PLACEMENT)


class Wide(Inner):
    extra: int = 3


class Row(BaseModel):
    kind: Literal["row"] = "row"
    path: Path = Field(Path("/data"), json_schema_extra=PLACEMENT)
    scale: float = 0.5


class Names(RootModel[list[str]]):
    pass


class Outer(BaseModel):
    inner: Inner = Inner()
    rows: list[Row] = [Row()]
    by_name: dict[str, Row] = {"a": Row()}
    pair: tuple[int, Inner] = (1, Inner())
    colour: Colour = Colour.RED
    folder: PurePosixPath = PurePosixPath("sub/dir")
    day: datetime.date = datetime.date(2026, 1, 2)
    names: Names = Names(["x"])
    workers: int = Field(4, json_schema_extra=PLACEMENT)


class TestCanonicalJson:
    def test_one_text_for_the_plain_kinds(self):
        value = {"b": [1, 2.5, True, None], "a": (Colour.RED, Grade.HIGH), "é": 1e-5}
        assert canonical_json(value) == '{"a":["red","high"],"b":[1,2.5,true,null],"\\u00e9":1e-05}'

    @given(values)
    def test_round_trips_through_json(self, value):
        assert json.loads(canonical_json(value)) == value

    @given(st.dictionaries(st.text(), values, min_size=2, max_size=5), st.randoms())
    def test_key_order_does_not_matter(self, value, random):
        keys = list(value)
        random.shuffle(keys)
        assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)

    @given(values, values)
    def test_equal_text_only_for_equal_values(self, one, other):
        if canonical_json(one) == canonical_json(other):
            assert one == other

    @pytest.mark.parametrize(("one", "other"), [(1.0, 1), (-0.0, 0), ((1, 2), [1, 2]), (Colour.RED, "red")])
    def test_same_meaning_same_text(self, one, other):
        assert fingerprint(one) == fingerprint(other)

    @pytest.mark.parametrize(("one", "other"), [(True, 1), ("1", 1), (None, "None"), ([], {}), ("", None), (0.1, 0.2)])
    def test_different_meaning_different_text(self, one, other):
        assert fingerprint(one) != fingerprint(other)

    @pytest.mark.parametrize(
        ("value", "place"),
        [
            ({"a": {"b": [1, {2, 3}]}}, "a.b[1]"),
            ({"a": math.nan}, "a"),
            ([math.inf], "[0]"),
            ({"a": object()}, "a"),
            ({"a": b"bytes"}, "a"),
            ({"a": np.int64(3)}, "a"),
            ({"a": np.zeros(2)}, "a"),
            ({"a": {1: 2}}, "a"),
            ({"a": Path("x")}, "a"),
            (lambda: 0, "top level"),
        ],
    )
    def test_refuses_and_names_the_place(self, value, place):
        with pytest.raises(UnhashableIdentityError) as caught:
            canonical_json(value)
        assert f"identity at {place}:" in str(caught.value)
        assert isinstance(caught.value, TypeError)

    def test_fingerprint_is_sha256_of_the_text(self):
        # printf '{"a":1}' | sha256sum
        assert fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"

    def test_another_process_with_another_hash_seed_agrees(self):
        code = "from storage.fingerprint import fingerprint; print(fingerprint({'b': ['x', 1.5], 'a': {'k': None}}))"
        found = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in ("1", "2")
        }
        assert found == {fingerprint({"a": {"k": None}, "b": ["x", 1.5]})}


class TestIdentity:
    def test_strips_placement_at_any_depth_and_equals_the_dump_otherwise(self):
        expected = Outer().model_dump(
            mode="json",
            exclude={
                "workers": True,
                "inner": {"device"},
                "rows": {"__all__": {"path"}},
                "by_name": {"a": {"path"}},
                "pair": {1: {"device"}},
            },
        )
        assert identity(Outer()) == expected

    def test_placement_never_changes_the_fingerprint(self):
        moved = Outer(inner=Inner(device="cuda:3"), rows=[Row(path=Path("/elsewhere"))], workers=64)
        assert fingerprint(moved) == fingerprint(Outer()) == fingerprint(identity(Outer()))

    @pytest.mark.parametrize(
        "changed",
        [Outer(inner=Inner(rate=2)), Outer(rows=[Row(scale=0.25)]), Outer(names=Names(["y"])), Outer(rows=[])],
    )
    def test_anything_else_does(self, changed):
        assert fingerprint(changed) != fingerprint(Outer())

    def test_an_integer_default_of_a_float_field_is_the_float(self):
        assert fingerprint(Inner()) == fingerprint(Inner(rate=1.0))

    def test_fields_of_a_subclass_in_a_base_typed_field_count(self):
        assert fingerprint(Outer(inner=Wide(extra=1))) != fingerprint(Outer(inner=Wide(extra=2)))

    def test_a_set_field_is_refused_by_name(self):
        class WithSet(BaseModel):
            tags: set[str] = {"a", "b"}

        with pytest.raises(UnhashableIdentityError, match="identity at tags:"):
            identity(WithSet())


def test_digest_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert digest_file(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
