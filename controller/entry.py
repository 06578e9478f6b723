"""What all entries of a file share: strict mappings, their kinds of numbers, and how a problem is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Batch = Annotated[int, Field(ge=1, le=100_000)]
Name = Annotated[str, Field(min_length=1)]


def as_size(key: object) -> object:
    """Return the number that a key stands for; in JSON, as in results, all keys are text."""
    if isinstance(key, str):
        with suppress(ValueError):
            return float(key)
    return key


Size = Annotated[float, Field(gt=0), BeforeValidator(as_size)]


def refuse(text: str, *path: str | int) -> NoReturn:
    """Raise a problem for the user to read; `path` leads from the value being checked to the culprit."""
    raise PydanticCustomError("refused", "{text}", {"text": text, "path": path})


def closest(word: str, known: Sequence[str]) -> str:
    """Say which known word was probably meant, or which there are."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


class Entry(BaseModel):
    """A mapping in the file: types are strict, unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _have_the_right_keys(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            refuse(f"{shorten(data)} should be a mapping with the keys {', '.join(_names(cls))}")
        for key in data:
            if key not in _names(cls):
                refuse(f"unknown key {key!r}: {closest(str(key), _names(cls))}", key)
        for name, field in cls.model_fields.items():
            if field.is_required() and (field.alias or name) not in data:
                refuse(f"{field.alias or name} is missing: {field.description}")
        return data


def shorten(value: object, limit: int = 60) -> str:
    """Write a value from the file so that it fits into a sentence."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _names(entry: type[BaseModel]) -> list[str]:
    """List the keys of an entry, those that it needs first."""
    fields = sorted(entry.model_fields.items(), key=lambda item: not item[1].is_required())
    return [field.alias or name for name, field in fields]
