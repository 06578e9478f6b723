"""Instants as text: ISO dates with or without T, fraction and zone, and unix seconds."""

from __future__ import annotations

import re

import polars as pl

from partita.errors import ConfigError

LARGEST_NS = 2**63 - 1

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIX = r"^[+-]?\d{1,10}(\.\d*)?$"
_ZONE = r"(Z|[+-]\d{2}:?\d{2})$"


def to_ns(texts: pl.Series) -> pl.Series:
    """Turn instants into unix nanoseconds; what is no instant becomes null. A time without a zone is taken as UTC."""
    texts = texts.str.strip_chars()
    unix = texts.str.contains(_UNIX)
    if unix.any():
        whole = texts.str.extract(r"^([+-]?\d{1,10})").cast(pl.Int64, strict=False)
        part = ("0." + texts.str.extract(r"\.(\d+)$").fill_null("0")).cast(pl.Float64, strict=False)
        sign = texts.str.starts_with("-").replace_strict({True: -1, False: 1}, return_dtype=pl.Int64, default=1)
        seconds = whole * 1_000_000_000 + sign * (part * 1e9).round().cast(pl.Int64)
        found = pl.select(pl.when(unix & (whole.abs() <= 9_000_000_000)).then(seconds)).to_series()
        return found if unix.all() else _first(found, _iso_ns(texts))
    return _iso_ns(texts)


def _first(one: pl.Series, other: pl.Series) -> pl.Series:
    return pl.select(pl.coalesce(one, other)).to_series()


def _iso_ns(texts: pl.Series) -> pl.Series:
    # Nanoseconds in 64 bits reach from 1678 to 2262; polars would wrap around in silence.
    year = texts.str.slice(0, 4).cast(pl.Int32, strict=False)
    texts = pl.select(pl.when(year.is_between(1700, 2261)).then(texts)).to_series()
    texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2})[Tt]", "$1 ")
    short = ~texts.str.contains(r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}")
    if short.any():
        texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2})$", "$1 00:00:00")
        texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2} \d{2})(Z|[+-]\d{2}:?\d{2})?$", "$1:00:00$2")
        texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2} \d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})?$", "$1:00$2")
    # PostgreSQL writes whole hours of a zone without minutes.
    texts = texts.str.replace(r"(:\d{2}(?:\.\d*)?[+-]\d{2})$", "$1:00")
    zoned = texts.str.contains(_ZONE)
    plain = texts.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    if not zoned.any():
        return plain.cast(pl.Int64)
    aware = texts.str.replace("Z$", "+00:00").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f%:z", time_unit="ns", time_zone="UTC", strict=False
    )
    return _first(plain.cast(pl.Int64), aware.cast(pl.Int64))


def parse_instant(text: str | float, *, origin_ns: int, key: str) -> int:
    """Turn a bound such as "2023-11-16T18:30", "1.5h" or 90 into unix nanoseconds; ConfigError otherwise.

    A date is absolute; a plain number is seconds, and a number with s, m, h or d a time, after `origin_ns`.
    """
    if match := re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", str(text)):
        return origin_ns + round(float(match[1]) * _UNITS_S[match[2] or "s"] * 1e9)
    found = _iso_ns(pl.Series([str(text)], dtype=pl.String))[0]
    if found is None:
        hint = "give a date like 2023-11-16T18:30 or a time after the start like 90, 30m or 1.5h"
        raise ConfigError(f"{text!r} is not an instant: {hint}", key=key, value=text)
    return int(found)
