"""Which columns of a foreign table stand for those of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.traces.csv_blocks import Block

ROW_COLUMNS = ("ts", "service", "size", "output_size")
COUNT_COLUMNS = ("ts", "service", "count", "bin_s", "law", "shape")
OURS = tuple(dict.fromkeys((*ROW_COLUMNS, *COUNT_COLUMNS)))
UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The file's column for each of ours that it has; `unit` is what `ts` counts since 1970, None if it is a date.

    Without a map, the columns have our own names.
    """

    theirs: Mapping[str, str]
    unit: str | None = None

    @classmethod
    def parse(cls, text: str) -> ColumnMap:
        """Read "ts=when:ms,service=model,size=tokens"; ConfigError says what is wrong."""
        theirs: dict[str, str] = {}
        for part in text.split(","):
            ours, equals, name = (word.strip() for word in part.partition("="))
            if not (equals and name):
                raise ConfigError(f"{part!r} is not OURS=THEIRS", key="--columns", value=text)
            if ours in theirs:
                raise ConfigError(f"{ours} is given twice", key="--columns", value=text)
            theirs[ours] = name
        return cls.of(theirs, key="--columns")

    @classmethod
    def of(cls, theirs: Mapping[str, str], *, key: str) -> ColumnMap:
        """Take a map, in which a unit may stand behind the column of ts; ConfigError says what is wrong with it."""
        for ours in theirs:
            if ours not in OURS:
                raise ConfigError(f"{ours!r} is none of our columns: {', '.join(OURS)}", key=key, value=ours)
        if "ts" not in theirs:
            raise ConfigError("ts is missing: the column that says when", key=key)
        ts, colon, unit = theirs["ts"].rpartition(":")
        if colon and unit in UNITS_NS:
            return cls({**theirs, "ts": ts}, unit)
        return cls(dict(theirs))

    def instants(self, block: Block) -> NDArray[np.int64]:
        """Return the instants of a block as unix nanoseconds."""
        name = self.theirs["ts"]
        if self.unit is None:
            return block.times(name)
        factor, numbers = UNITS_NS[self.unit], block.numbers(name)
        whole = block.columns[name].cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
        if (wrong := np.abs(numbers) * factor >= 2.0**63).any():
            at = int(np.argmax(wrong))
            raise block.fail(f"{block.columns[name][at]!r} is not a time in {self.unit}", at, name)
        if whole.null_count():
            floor = np.floor(numbers)
            return floor.astype(np.int64) * factor + np.rint((numbers - floor) * factor).astype(np.int64)
        return whole.to_numpy() * factor
