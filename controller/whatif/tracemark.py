"""What tells a trace file from another one, without reading all of it."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

PIECE = 1 << 20
"""Bytes at the start and at the end that are looked at."""


def mark_of(path: Path) -> dict[str, Any]:
    """Return the file's size and a digest of its start and end."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = blake2b(file.read(PIECE), digest_size=16)
        file.seek(max(0, size - PIECE))
        digest.update(file.read())
    return {"bytes": size, "digest": digest.hexdigest()}
