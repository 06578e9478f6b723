"""What trained forecasting models have learned, kept so that training can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from partita.errors import StoreError
from partita.store.connection import Connection, atomically, explained
from partita.store.queries import query

KEPT = 5
"""Newest states of a model that are kept: enough to go back to, few enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a trained model, from which it can forecast or go on learning; times are unix seconds."""

    name: str
    version: str
    trained_from_s: float
    trained_until_s: float
    step_s: float
    services: tuple[str, ...]
    state: bytes

    @property
    def sha256(self) -> str:
        """Checksum of the state."""
        return sha256(self.state).hexdigest()


async def save_checkpoint(connection: Connection, checkpoint: Checkpoint) -> None:
    """Keep a state as the newest of its name, and drop those beyond KEPT."""
    with explained("the writing of a trained model"):
        async with atomically(connection):
            await connection.execute(
                query("add_forecast_model"),
                checkpoint.name,
                checkpoint.version,
                checkpoint.trained_from_s,
                checkpoint.trained_until_s,
                checkpoint.step_s,
                list(checkpoint.services),
                checkpoint.sha256,
                checkpoint.state,
            )
            await connection.execute(query("drop_old_forecast_models"), checkpoint.name, KEPT)


async def newest_checkpoint(connection: Connection, name: str) -> Checkpoint | None:
    """Return the newest state of a model, None if there is none; StoreError if it is not what was written."""
    with explained("the look at trained models"):
        row = await connection.fetchrow(query("newest_forecast_model"), name)
    if row is None:
        return None
    found = dict(row)
    expected = found.pop("sha256")
    checkpoint = Checkpoint(**found | {"services": tuple(found["services"])})
    if checkpoint.sha256 != expected:
        raise StoreError(f"the trained model {name} in the database is damaged: its checksum is another; train it anew")
    return checkpoint


async def newest_checkpoints(connection: Connection) -> dict[str, Mapping[str, Any]]:
    """Return by model what is known of its newest state: version, trained_until, services (their number), step_s."""
    with explained("the look at trained models"):
        rows = await connection.fetch(query("newest_forecast_models"))
    return {row["name"]: dict(row) for row in rows}
