"""What a turn saw, as bytes: enough to make its decision again, to the last bit.

A record is zstd over: the length of a JSON header, the header, and the raw bytes of the arrays that the header refers
to by ``{"$array": [dtype, shape, offset]}``; mappings are ``{"$map": [[key, value], …]}``, since keys may be pairs.
Rising integers are kept as differences, which compress well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from partita.model.revive import VERBS, from_plain

T = TypeVar("T")

_LEVEL = 3
_ARRAY, _MAP = "$array", "$map"


def encode(value: object) -> bytes:
    """Write an observation or a loop's state."""
    arrays: list[bytes] = []
    header = json.dumps(_plain(value, arrays), allow_nan=True, separators=(",", ":")).encode()
    body = len(header).to_bytes(8, "little") + header + b"".join(arrays)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(body)


def decode(kind: type[T], record: bytes) -> T:
    """Read back what `encode` wrote of a value of this type; ValueError if it is damaged or of another version."""
    try:
        body = zstandard.ZstdDecompressor().decompress(record)
    except zstandard.ZstdError as problem:
        raise ValueError(f"the record is damaged: {problem}") from None
    size = int.from_bytes(body[:8], "little")
    arrays = memoryview(body)[8 + size :]
    try:
        return from_plain(kind, _joined(json.loads(body[8 : 8 + size]), arrays))
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"the record is of another version: {problem}") from None


def recorded(value: T) -> T:
    """Return a value as it would be read back, so that whoever goes on from it and from its record go on alike."""
    return decode(type(value), encode(value))


def _plain(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        offset = sum(map(len, arrays))
        arrays.append(_differences(value).tobytes())
        return {_ARRAY: [value.dtype.str, list(value.shape), offset]}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        verb = {"verb": type(value).__name__} if type(value).__name__ in VERBS else {}
        return verb | {field.name: _plain(getattr(value, field.name), arrays) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_MAP: [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        return [_plain(item, arrays) for item in value]
    return value


def _joined(value: Any, arrays: memoryview) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            dtype, shape, offset = value[_ARRAY]
            count = int(np.prod(shape, dtype=np.int64))
            found = np.frombuffer(arrays, np.dtype(dtype), count=count, offset=offset).reshape(shape)
            return np.cumsum(found) if _is_rising(found) else found.copy()
        if _MAP in value:
            return {_key(key): _joined(item, arrays) for key, item in value[_MAP]}
        return {key: _joined(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item, arrays) for item in value]
    return value


def _key(plain: Any) -> Any:
    return tuple(plain) if isinstance(plain, list) else plain


def _is_rising(array: NDArray[Any]) -> bool:
    """Say whether an array is kept as differences: whole numbers in one row."""
    return array.ndim == 1 and array.dtype == np.int64


def _differences(array: NDArray[Any]) -> NDArray[Any]:
    return np.diff(array, prepend=np.int64(0)) if _is_rising(array) else np.ascontiguousarray(array)
