"""Plain values out of a numpy pickle, with nothing executed and no numpy object rebuilt from the file's own state.

The region files of bottom-up-attention.pytorch hold a pickled dict. Unpickling calls whatever the file names; even an
allow-list of numpy's own functions is not enough, since a forged dtype state makes numpy read integers as pointers.
Here every name that such a file may use stands for an inert class of this module; anything else is refused.
"""

import io
import pickle
from typing import Any

import numpy as np

_NUMBERS = frozenset({"b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"})
_MAX_ITEMS = 1 << 24  # numbers in one array; region files hold at most a few thousand


class ForbiddenPickleError(ValueError):
    """A pickle that names something a region file has no business to hold, or is damaged."""


class _DType:
    """numpy.dtype: only remembers the code and the byte order."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ForbiddenPickleError(f"dtype {self.code!r} with byte order {order!r}")
        self.order = order

    def numpy(self) -> np.dtype:
        if not isinstance(self.code, str) or self.code not in _NUMBERS:
            raise ForbiddenPickleError(f"array of dtype {self.code!r}; allowed are plain numbers")
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)


class _Array:
    """numpy.ndarray: remembers its state, (version, shape, dtype, is_fortran, bytes or list)."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def value(self) -> Any:
        """The array as numpy array of numbers, or as (nested) plain value where it holds one object."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ForbiddenPickleError("an array without a proper state")
        _, shape, dtype, fortran, data = self.state
        if not isinstance(shape, tuple):
            raise ForbiddenPickleError(f"an array of shape {shape!r}")
        if isinstance(data, list):
            if shape != () or len(data) != 1:
                raise ForbiddenPickleError("an array of several objects")
            return data[0]
        return _numbers(data, shape, dtype, bool(fortran))


def _numbers(data: object, shape: tuple[int, ...], dtype: object, fortran: bool) -> np.ndarray:
    if not isinstance(data, bytes) or not isinstance(dtype, _DType):
        raise ForbiddenPickleError("an array without bytes or dtype")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ForbiddenPickleError(f"an array of shape {shape!r}")
    kind = dtype.numpy()
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if count > _MAX_ITEMS or count * kind.itemsize != len(data):
        raise ForbiddenPickleError(f"an array of shape {shape} with {len(data)} bytes of {dtype.code}")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: object, data: object) -> Any:
    return _numbers(data, (), dtype, False)[()]


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """Protocol 5's form of an array."""
    if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ForbiddenPickleError("an array without bytes, shape or order")
    return _numbers(bytes(data), shape, dtype, order == "F")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Old protocols write bytes as latin-1 text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ForbiddenPickleError(f"text in encoding {encoding!r}")
    return text.encode("latin-1")


_ALLOWED = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _DType, ("_codecs", "encode"): _encode}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED |= {
        (f"{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _frombuffer,
    }


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ForbiddenPickleError(f"it names {module}.{name}; allowed are numpy arrays and numbers only")
        return _ALLOWED[module, name]


def read_plain_pickle(content: bytes) -> Any:
    """The pickled value as dicts, lists, tuples, texts, numbers and number arrays.

    Raises:
        ForbiddenPickleError: the pickle names anything but numpy arrays and numbers, or is damaged.
    """
    try:
        return _plain(_Reader(io.BytesIO(content)).load())
    except ForbiddenPickleError:
        raise
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, MemoryError,
        OverflowError, RecursionError, ImportError,
    ) as error:  # fmt: skip
        raise ForbiddenPickleError(f"damaged: {type(error).__name__}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return _plain(value.value())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray | np.generic):
        return value
    raise ForbiddenPickleError(f"a {type(value).__name__.strip('_')} where a plain value is expected")
