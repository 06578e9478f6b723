"""Log what a Triton server counts, where no gateway logs requests.

Triton's ``/metrics`` has counters by model since it was loaded. Their increase from one scrape to the next is logged as
counts by second, spread evenly over the time between. Requests are counted when they are answered, and what became of
each is not known: successes are requests of unknown fate, failures are dropped ones. A scrape that fails says nothing,
so the watermark waits for the next one. Source: Triton server, ``docs/user_guide/metrics.md``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from partita.client.columns import LONGEST_NAME, is_name
from partita.errors import ConfigError, StoreError
from partita.store.line import Line
from partita.store.live_batch import Batch, Pen, Refused, Seconds

_log = logging.getLogger("partita.client")

SUCCESS = "nv_inference_request_success"
FAILURE = "nv_inference_request_failure"
INFERENCES = "nv_inference_count"
EXECUTIONS = "nv_inference_exec_count"
QUEUE_US = "nv_inference_queue_duration_us"
REQUEST_US = "nv_inference_request_duration_us"
_READ = frozenset({SUCCESS, FAILURE, INFERENCES, EXECUTIONS, QUEUE_US, REQUEST_US})

LONGEST_ANSWER = 16 * 2**20
"""Bytes; a hundred times the metrics of a hundred models."""
_ANSWER_WITHIN_S = 30.0
_WARN_EVERY_S = 10.0
LOST_AFTER_S = 30.0
"""A server that gave no answer for so long holds the log up no longer: that is just when the loop must react."""
_MOST_WAITING = 600
"""Batches kept while the database is away; after that scrapes wait, and the next one covers the time between."""

Series = tuple[str, str]
"""Name of a counter and, for failures, their reason."""

Counters = Mapping[tuple[str, str], Mapping[Series, float]]
"""Model and version -> its counters."""


@dataclass(frozen=True, slots=True)
class ModelWindow:
    """What one model did between two scrapes; a mean is None where nothing was counted."""

    succeeded: int
    failed: int
    mean_batch: float | None
    mean_queue_s: float | None
    mean_latency_s: float | None


def read_counters(text: str) -> Counters:
    """Read the inference counters from the text of ``/metrics``; ValueError if it is not Triton's."""
    if SUCCESS not in text:
        raise ValueError(f"there is no {SUCCESS}")
    counters: dict[tuple[str, str], dict[Series, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name if sample.name in _READ else sample.name.removesuffix("_total")
            if name in _READ and "model" in sample.labels and math.isfinite(sample.value):
                model = (sample.labels["model"], sample.labels.get("version", ""))
                series = counters.setdefault(model, {})
                key = (name, sample.labels.get("reason", "") if name == FAILURE else "")
                series[key] = series.get(key, 0.0) + sample.value
    return counters


def windows(before: Counters, after: Counters) -> dict[str, ModelWindow]:
    """Return what each model did in between.

    Counters start again at 0 when a model is loaded anew or the server restarts: if one of a model and version has
    fallen, or the model was not there before, what they show now is what was done since.
    """
    added: dict[str, dict[str, float]] = {}
    for key, now in after.items():
        then = before.get(key, {})
        if any(now.get(series, 0.0) < value for series, value in then.items()):
            then = {}
        sums = added.setdefault(key[0], dict.fromkeys(_READ, 0.0))
        for series, value in now.items():
            sums[series[0]] += value - then.get(series, 0.0)
    return {model: _window(sums) for model, sums in sorted(added.items())}


def _window(added: Mapping[str, float]) -> ModelWindow:
    succeeded, executions = added[SUCCESS], added[EXECUTIONS]
    return ModelWindow(
        round(succeeded),
        round(added[FAILURE]),
        added[INFERENCES] / executions if executions else None,
        added[QUEUE_US] / succeeded / 1e6 if succeeded else None,
        added[REQUEST_US] / succeeded / 1e6 if succeeded else None,
    )


def spread(count: int, begin_s: float, end_s: float) -> dict[int, int]:
    """Spread a count evenly over the seconds of an interval; the sum stays what it is."""
    first, last = math.floor(begin_s), max(math.floor(begin_s), math.ceil(end_s) - 1)
    edges = np.clip(np.arange(first, last + 2), begin_s, max(end_s, begin_s + 1e-6))
    upto = np.rint(count * (edges - edges[0]) / (edges[-1] - edges[0])).astype(np.int64)
    return {first + place: int(part) for place, part in enumerate(np.diff(upto)) if part}


class TritonCounterLog:
    """Scrapes one server every `every_s` and logs its counters; use it as an async context manager, or call `scrape`.

    `services` maps models to services; a model that is not in it is logged under its own name. The server's address is
    the writer's name, unless `writer` is given: two processes that log the same server would count it twice, so the
    older one stops with StoreError, or with a warning in the background. Where there was no scrape for `lost_s`, the
    watermark no longer waits for this server, and what it did meanwhile is late.
    """

    def __init__(
        self,
        dsn: str,
        url: str,
        *,
        writer: str | None = None,
        services: Mapping[str, str] | None = None,
        every_s: float = 1.0,
        timeout_s: float = 2.0,
        lost_s: float = LOST_AFTER_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} must be the http address of a server's metrics", key="url", value=url)
        self._url = url if parts.path.strip("/") else f"{url.rstrip('/')}/metrics"
        self._services = dict(services or {})
        self._every_s, self._timeout = every_s, aiohttp.ClientTimeout(total=timeout_s)
        self._line = Line(dsn)
        self._pen = Pen(writer or f"triton {parts.netloc.rpartition('@')[2]}", lost_s=lost_s)
        self._next: int | None = None
        self._learnt = 0
        self._superseded = False
        self._seen: tuple[float, Counters] | None = None
        self._waiting: deque[Batch] = deque()
        self._task: asyncio.Task[None] | None = None
        self._warned_s = -math.inf

    @property
    def writer(self) -> str:
        """The name in the database."""
        return self._pen.writer

    async def scrape(self) -> Mapping[str, ModelWindow] | None:
        """Scrape once and log what was done since the last time; None if there was no answer, or no time before.

        StoreError if the database is away: the counts wait for the next call.
        """
        found = None
        at_s = time.time()
        if len(self._waiting) < _MOST_WAITING and (counters := await self._counters()) is not None:
            before_s, before = self._seen or (at_s, counters)
            if self._seen is not None:
                found = windows(before, counters)
            if at_s >= before_s:  # else the clock was set back: the next scrape covers this time too
                self._seen = (at_s, counters)
                self._waiting.append(self._as_batch(found or {}, before_s, at_s))
        await self._write()
        return found

    async def run(self) -> None:
        """Scrape for ever; StoreError if another process has begun to log this server."""
        due_s = time.monotonic()
        while True:
            try:
                await self.scrape()
            except Exception as problem:  # whatever it is, a later scrape covers this time too
                if self._superseded:
                    raise
                self._complain(problem)
            due_s = max(due_s + self._every_s, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())

    async def close(self) -> None:
        """Stop scraping and say goodbye to the database."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        try:
            if self._next is not None and not self._superseded:
                async with self._line.held(
                    "closing the log of Triton's counters", within_s=_ANSWER_WITHIN_S
                ) as connection:
                    await self._pen.close(connection, self._next)
        except StoreError as problem:
            self._complain(problem)
        await self._line.close()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name=self._pen.writer)
        self._task.add_done_callback(self._say_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _counters(self) -> Counters | None:
        try:
            async with aiohttp.ClientSession(timeout=self._timeout) as session, session.get(self._url) as answer:
                answer.raise_for_status()
                body = await answer.content.read(LONGEST_ANSWER)
                while more := await answer.content.read(LONGEST_ANSWER):
                    body += more
                    if len(body) > LONGEST_ANSWER:
                        raise ValueError(f"the answer is longer than {LONGEST_ANSWER} bytes")
            return read_counters(body.decode())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            self._complain(problem)
            return None

    def _as_batch(self, found: Mapping[str, ModelWindow], begin_s: float, end_s: float) -> Batch:
        """Return what was done in between as counts, with the promise that it was all up to `end_s`."""
        services: dict[str, int] = {}
        rows = [np.empty((0, 6), np.int64)]
        refused = Refused(0, "")
        for model, done in found.items():
            name = self._services.get(model, model)
            if not is_name(name):
                refused += Refused(done.succeeded + done.failed, ascii(model)[:LONGEST_NAME])
                continue
            place = services.setdefault(name, len(services))
            rows += [np.array([[at, place, n, 0, 0, 0]]) for at, n in spread(done.succeeded, begin_s, end_s).items()]
            rows += [np.array([[at, place, n, 0, 0, n]]) for at, n in spread(done.failed, begin_s, end_s).items()]
        second, service, *counts = np.concatenate(rows).T
        seconds = Seconds.summed(second, service.astype(np.int32), *counts)
        return Batch(0, end_s, tuple(services), seconds=seconds, refused={"service": refused} if refused.rows else {})

    async def _write(self) -> None:
        while self._waiting:
            async with self._line.held("logging Triton's counters", within_s=_ANSWER_WITHIN_S) as connection:
                if self._learnt != self._line.opened:
                    self._pen.forget()
                    self._learnt = self._line.opened
                if self._next is None:
                    self._next = await self._pen.open(connection)
                try:
                    await self._pen.write(connection, replace(self._waiting[0], number=self._next))
                except asyncpg.ObjectInUseError:
                    self._superseded = True
                    raise StoreError(f"another process logs the counters of {self._url}") from None
            self._waiting.popleft()
            self._next += 1

    def _say_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.warning("no longer logging the counters of %s: %s", self._url, problem)

    def _complain(self, problem: Exception) -> None:
        if time.monotonic() - self._warned_s > _WARN_EVERY_S:
            self._warned_s = time.monotonic()
            _log.warning("no counters of %s: %s", self._url, str(problem) or type(problem).__name__)
