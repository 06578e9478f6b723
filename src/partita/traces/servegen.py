"""ServeGen's client rates: for each client and window of ten minutes a rate and the law of its inter-arrival times.

Source: github.com/alibaba/ServeGen, its client files as one table with the columns model, client, t (start of the
window in s after the start of the trace), rate (requests/s; empty means none), pat (Gamma or Weibull) and p1 (shape).
round(rate x width) is the count. The file is ordered by client, not by time, so it is read whole and sorted: a few
hundred thousand rows at most, whatever the length of the request stream that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from partita.errors import TraceError
from partita.ports import Counts, TraceInfo
from partita.traces.blocks import join_counts, pick
from partita.traces.csv_blocks import Block, read_csv_blocks, split_header

COLUMNS = ("model", "client", "t", "rate", "pat", "p1")
WINDOW_S = 600.0
ROWS_A_BLOCK = 16_384
MOST_ROWS = 20_000_000
LAWS = {"Gamma": "gamma", "Weibull": "weibull"}


class ServeGenReader:
    """Reads client rates; a service is named "model/client"."""

    name = "servegen"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the header names the columns of the client rates."""
        return {"client", "rate", "t"} <= set(split_header(head.partition("\n")[0]))

    def info(self, path: Path) -> TraceInfo:
        """Describe the file."""
        return TraceInfo(self.name, "counts", WINDOW_S)

    def blocks(self, path: Path) -> Iterator[Counts]:
        """Yield the windows in the order of time, then of the file."""
        blocks: list[Counts] = []
        last: dict[tuple[str, str], float] = {}
        for block in read_csv_blocks(path, need=COLUMNS):
            _check_order(block, last)
            blocks.append(_count(block))
            if sum(b.at_ns.size for b in blocks) > MOST_ROWS:
                raise TraceError(f"more than {MOST_ROWS:,} windows; this format is read whole", file=str(path))
        whole = join_counts(blocks)
        order = np.argsort(whole.at_ns, kind="stable")
        for start in range(0, order.size, ROWS_A_BLOCK):
            yield pick(whole, order[start : start + ROWS_A_BLOCK])


def _check_order(block: Block, last: dict[tuple[str, str], float]) -> None:
    """Each client's windows must rise by whole windows, so that none is counted twice."""
    at_s = block.numbers("t")
    if (wrong := at_s % WINDOW_S != 0).any():
        at = int(np.argmax(wrong))
        raise block.fail(f"{block.columns['t'][at]!r} is not a multiple of {WINDOW_S:g} s", at, "t")
    clients = zip(block.text("model"), block.text("client"), strict=True)
    for at, (client, start) in enumerate(zip(clients, at_s.tolist(), strict=True)):
        if start <= last.get(client, -1.0):
            raise block.fail(f"window {start:g} of client {'/'.join(client)} is not later than the one before", at, "t")
        last[client] = start


def _count(block: Block) -> Counts:
    rates, shapes = block.numbers("rate", empty=0.0), block.numbers("p1", empty=1.0)
    for column, values, lowest in (("rate", rates, 0.0), ("p1", shapes, np.nextafter(0, 1))):
        if (wrong := values < lowest).any():
            at = int(np.argmax(wrong))
            raise block.fail(f"{block.columns[column][at]!r} is too small", at, column)
    laws = block.columns["pat"].fill_null("")
    if (unknown := ~laws.is_in([*LAWS, ""])).any():
        at = int(np.argmax(unknown.to_numpy()))
        raise block.fail(f"{laws[at]!r} is not Gamma or Weibull", at, "pat")
    return Counts(
        np.rint(block.numbers("t") * 1e9).astype(np.int64),
        (block.columns["model"] + "/" + block.columns["client"]).to_numpy(),
        np.rint(rates * WINDOW_S).astype(np.int64),
        laws.replace_strict(LAWS, default="poisson", return_dtype=pl.String).to_numpy(),
        shapes,
    )
