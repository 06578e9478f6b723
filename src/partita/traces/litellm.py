"""LiteLLM's spend logs: the rows of its table `LiteLLM_SpendLogs`, from a CSV export.

Source: github.com/BerriAI/litellm, schema.prisma. A request comes at `startTime` (UTC), its sizes are `prompt_tokens`
and `completion_tokens`. Rows are written when requests end, so an export need not be in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.ports import Counts, Rows, TraceInfo
from partita.traces.blocks import pick
from partita.traces.csv_blocks import Block, read_csv_blocks, split_header
from partita.traces.order import LateRows, too_late

TIME = "startTime"
COLUMNS = (TIME, "model", "prompt_tokens", "completion_tokens")
TABLE = "LiteLLM_SpendLogs"

ServiceBy = Literal["model_group", "model"]
SERVICES_BY: tuple[ServiceBy, ...] = ("model_group", "model")


@dataclass(frozen=True, slots=True)
class SpendLogsReader:
    """Reads requests; a service is a `model_group` (where that is empty, the model) or, by choice, a `model`.

    With `status` only its rows count ("success", "failure"). Answers out of LiteLLM's cache and rows without a model,
    which were refused before one was chosen, never reached a GPU and are left out.
    """

    service_by: ServiceBy = "model_group"
    status: str | None = None

    name = "litellm"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the header has the columns of the spend logs."""
        return {TIME, "prompt_tokens"} <= set(split_header(head.partition("\n")[0]))

    def info(self, path: Path) -> TraceInfo:
        """Describe the file."""
        return TraceInfo(self.name, "requests")

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the requests in the order of time."""
        need = COLUMNS if self.status is None else (*COLUMNS, "status")
        late = LateRows()
        for block in read_csv_blocks(path, need=need):
            rows = self._rows(block)
            if (at := late.first_too_late(rows.at_ns)) is not None:
                raise too_late(str(path), block.first_row + at, TIME, block.columns[TIME][at])
            yield late.add(pick(rows, self._served(block, rows)))
        yield from late.rest()

    def _rows(self, block: Block) -> Rows:
        return Rows(
            block.times(TIME),
            self._services(block),
            block.numbers("prompt_tokens", empty=np.nan).astype(np.float32),
            block.numbers("completion_tokens", empty=np.nan).astype(np.float32),
        )

    def _services(self, block: Block) -> NDArray[np.object_]:
        model = block.columns["model"]
        if self.service_by == "model" or "model_group" not in block.columns.columns:
            return model.fill_null("").to_numpy()
        group = block.columns["model_group"].replace("", None)
        return pl.select(pl.coalesce(group, model)).to_series().fill_null("").to_numpy()

    def _served(self, block: Block, rows: Rows) -> NDArray[np.bool_]:
        served: NDArray[np.bool_] = rows.service != ""
        columns = block.columns
        if "cache_hit" in columns.columns:
            served &= (columns["cache_hit"].fill_null("").str.to_lowercase() != "true").to_numpy()
        if self.status is not None:
            served &= (columns["status"].fill_null("") == self.status).to_numpy()
        return served
