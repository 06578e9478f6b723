"""How the live log is doing: who writes it, how far it is complete, and what was refused, late or given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from partita.store.connection import Connection
from partita.store.live_batch import Refused
from partita.store.queries import query

RATE_OVER_S = 60.0


@dataclass(frozen=True, slots=True)
class WriterHealth:
    """One process that logs. `until_s` is how far its log is complete, None before its first promise.

    `state` is "lost" if it was not seen for long, "closed" if it said goodbye; only live ones hold the watermark.
    `rows` counts requests taken, `rejected` rows refused, `lost` requests it gave up, `thinned` those of which it gave
    up the row but not the count, `duplicates` batches it sent again after they had arrived. `since_s` is when it began.
    """

    name: str
    until_s: float | None
    seen_s: float
    state: Literal["live", "lost", "closed"]
    rows: int
    rejected: int
    lost: int
    thinned: int
    duplicates: int
    since_s: float | None = None

    @property
    def holds_at_s(self) -> float | None:
        """How far it lets the watermark go while it is live."""
        return self.since_s if self.until_s is None else self.until_s

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> WriterHealth:
        """Map a database row."""
        return cls(
            name=row["writer"],
            until_s=_unix_s(row["until"]),
            seen_s=row["seen_at"].timestamp(),
            state="closed" if row["closed"] else "lost" if row["unseen"] else "live",
            rows=row["rows"],
            rejected=row["rejected"],
            lost=row["lost"],
            thinned=row["thinned"],
            duplicates=row["duplicates"],
            since_s=_unix_s(row["since"]),
        )


@dataclass(frozen=True, slots=True)
class LogHealth:
    """The live log at `now_s` by the database's clock. `watermark_s` is None while nobody has logged.

    `late` counts requests by service that came after their time had been promised as complete; `rejected` are rows by
    reason; `unconfigured` is the recent rate, in requests a second, of services in the log that are not known here.
    """

    now_s: float
    watermark_s: float | None
    writers: tuple[WriterHealth, ...]
    late: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, Refused] = field(default_factory=dict)
    unconfigured: Mapping[str, float] = field(default_factory=dict)

    @property
    def duplicates(self) -> int:
        """Batches that came again and changed nothing."""
        return sum(writer.duplicates for writer in self.writers)

    @property
    def lost(self) -> int:
        """Requests that writers gave up."""
        return sum(writer.lost for writer in self.writers)

    @property
    def holding(self) -> WriterHealth | None:
        """The live writer that the watermark waits for."""
        live = [w for w in self.writers if w.state == "live" and w.holds_at_s is not None]
        return min(live, key=lambda w: w.holds_at_s or 0.0, default=None)


async def read_health(connection: Connection, services: Sequence[str], lost_writer_s: float) -> LogHealth:
    """Read it all in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        watermark = await connection.fetchval(query("watermark"), 0)
        unconfigured = (
            await connection.fetch(query("unconfigured_services"), list(services), RATE_OVER_S, watermark)
            if watermark is not None
            else []
        )
        return LogHealth(
            now_s=await connection.fetchval(query("now_s")),
            watermark_s=_unix_s(watermark),
            writers=tuple(map(WriterHealth.from_row, await connection.fetch(query("log_writers"), lost_writer_s))),
            late={row["name"]: row["rows"] for row in await connection.fetch(query("log_late"))},
            rejected={
                row["reason"]: Refused(row["rows"], row["example"] or "")
                for row in await connection.fetch(query("log_rejects"))
            },
            unconfigured={row["name"]: row["rps"] for row in unconfigured},
        )


def _unix_s(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
