"""The entries of how load is forecast: by which models, and what the operator knows of the days to come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from math import inf
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from partita.controller.entry import Entry, Name, Positive, refuse
from partita.controller.load_entries import Instant
from partita.forecasting.calendar import WEEK_S, Calendar, Event

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_S = 86_400.0
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class ModelsEntry(Entry):
    """The models of one service, or of several."""

    near: Name | None = Field(None, description="model of the next seconds to minutes; left out: that of the others")
    far: Name | None = Field(None, description="model of the next epochs; left out: that of the others")


class CalendarEntry(Entry):
    """An event, a holiday, or a bound."""

    name: Name = Field(description="what it is called, in decisions too")
    services: Annotated[list[Name], Field(min_length=1)] = Field(
        default_factory=lambda: ["*"], description="patterns of the names of the services that it is about"
    )
    from_: Instant | None = Field(None, alias="from", description="first instant; left out: always was")
    to: Instant | None = Field(None, description="end; left out: for good")
    holiday: Instant | None = Field(None, description="or a day, which is like another day of the week")
    like: Weekday | None = Field(None, description="the day of the week that the holiday is like; left out: sunday")
    factor: Annotated[float, Field(gt=0, le=1000)] = Field(1.0, description="what the load is multiplied by")
    floor_rps: Positive | None = Field(None, description="requests a second that are expected at least")
    ceiling_rps: Positive | None = Field(None, description="requests a second that are expected at most")

    def instants(self) -> Iterator[tuple[str, float | str]]:
        """Yield the instants that are given, with their keys."""
        for key, value in (("from", self.from_), ("to", self.to), ("holiday", self.holiday)):
            if value is not None:
                yield key, value

    def event(self, origin_ns: int, speed: float) -> Event:
        """Return it in seconds of a loop whose instant 0 is `origin_ns`, and whose time passes so much faster."""
        from_s = -inf if self.from_ is None else _seconds(self.from_, origin_ns, speed)
        to_s = inf if self.to is None else _seconds(self.to, origin_ns, speed)
        back_s = 0.0
        if self.holiday is not None:
            from_s = _seconds(self.holiday, origin_ns, speed)
            to_s = from_s + DAY_S / speed
            weekday = date.fromisoformat(str(self.holiday)[:10]).weekday()
            back_s = ((weekday - DAYS.index(self.like or "sunday")) % 7 or 7) * DAY_S / speed
        return Event(
            self.name,
            tuple(self.services),
            from_s,
            to_s,
            self.factor,
            self.floor_rps or 0.0,
            inf if self.ceiling_rps is None else self.ceiling_rps,
            back_s,
            WEEK_S / speed,
        )

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if self.factor == 1.0 and self.holiday is None and self.floor_rps is None and self.ceiling_rps is None:
            refuse(f"{self.name!r} changes nothing: give factor, floor_rps, ceiling_rps or holiday")
        if self.holiday is not None:
            if not is_date(self.holiday):
                refuse(f"{self.holiday!r} should be a date like 2027-01-01", "holiday")
            for key, value in (("from", self.from_), ("to", self.to)):
                if value is not None:
                    refuse(f"{value!r} is given beside a holiday, which is a whole day", key)
        elif self.like is not None:
            refuse(f"{self.like!r} belongs to a holiday, and none is given", "like")
        elif self.factor != 1.0 and self.from_ is None and self.to is None:
            refuse(f"{self.factor:g} needs from or to: a factor that always holds is no event", "factor")
        if self.floor_rps is not None and self.ceiling_rps is not None and self.floor_rps > self.ceiling_rps:
            refuse(f"{self.floor_rps:g} is above ceiling_rps, {self.ceiling_rps:g}", "floor_rps")
        if self.from_ is not None and self.to is not None:
            if is_date(self.from_) != is_date(self.to):
                refuse(
                    f"{self.to!r} and from, {self.from_!r}, should both be dates or both times after the start", "to"
                )
            if _seconds(self.to, 0, 1.0) <= _seconds(self.from_, 0, 1.0):
                refuse(f"{self.to!r} must be after from, {self.from_!r}", "to")
        return self


class ForecastEntry(Entry):
    """How load is forecast."""

    near: Name | None = Field(None, description="model of the next seconds to minutes; left out: the built-in choice")
    far: Name | None = Field(None, description="model of the next epochs; left out: the built-in choice")
    services: dict[Name, ModelsEntry] = Field(
        default_factory=dict, description="service, or pattern of names: models of its own"
    )
    calendar: list[CalendarEntry] = Field(
        default_factory=list, description="events, holidays and bounds that no log can tell"
    )

    def calendar_of(self, *, origin_ns: int = 0, speed: float = 1.0) -> Calendar:
        """Return the calendar in seconds of a loop whose instant 0 is `origin_ns`, and whose time passes faster."""
        return Calendar(tuple(entry.event(origin_ns, speed) for entry in self.calendar))

    @model_validator(mode="after")
    def _name_each_once(self) -> Self:
        names = [entry.name for entry in self.calendar]
        for at, name in enumerate(names):
            if name in names[:at]:
                refuse(f"there are two entries {name!r}", "calendar", at, "name")
        return self


def is_date(instant: float | str) -> bool:
    """Say whether an instant is absolute; otherwise it is a time after the start."""
    return isinstance(instant, str) and "-" in instant


def _seconds(instant: float | str, origin_ns: int, speed: float) -> float:
    from partita.traces.times import parse_instant

    if is_date(instant):
        return (parse_instant(instant, origin_ns=0, key="") - origin_ns) / 1e9 / speed
    return parse_instant(instant, origin_ns=0, key="") / 1e9
