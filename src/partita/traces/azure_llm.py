"""The Azure LLM inference traces: single requests with token counts, no model and no client.

Source: github.com/Azure/AzurePublicDataset (Patel et al., Splitwise, ISCA 2024). Times without a zone are taken as UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from partita.ports import Counts, Rows, TraceInfo
from partita.traces.csv_blocks import read_csv_blocks, split_header
from partita.traces.order import RisingTimes

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
ONE_SERVICE = "*"
"""Service name of a trace that tells no services apart."""


class AzureLlmReader:
    """Reads TIMESTAMP, ContextTokens, GeneratedTokens; sizes are tokens."""

    name = "azure-llm"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the header names the three columns, or any two of them."""
        names = split_header(head.partition("\n")[0])
        return len(set(COLUMNS) & set(names)) >= 2

    def info(self, path: Path) -> TraceInfo:
        """Describe the file."""
        return TraceInfo(self.name, "requests")

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the requests."""
        rising = RisingTimes()
        for block in read_csv_blocks(path, need=COLUMNS):
            at_ns = block.times("TIMESTAMP")
            rising.check(at_ns, block, "TIMESTAMP")
            yield Rows(
                at_ns,
                np.full(len(block), ONE_SERVICE, object),
                block.numbers("ContextTokens").astype(np.float32),
                block.numbers("GeneratedTokens").astype(np.float32),
            )
