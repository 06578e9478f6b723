"""What changes while requests come in: nothing is lost that need not be."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from local.harness import (
    Lender,
    Reply,
    Running,
    alive,
    brought_up,
    play,
    poisson,
    routed,
    running,
    service,
    settings,
    whole,
)

from partita.controller.commands import commands_for
from partita.errors import Busy
from partita.model.cluster import Batching, SubCluster
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    HeldGpu,
    Plan,
    Release,
    SetBatching,
    StartReplicas,
    StopReplicas,
)

PATIENT = tuple(service(name, slo_ms=800.0, beta_ms=40.0) for name in "ab")
"""Services that keep a device busy, with an SLO that no hiccup of a busy machine breaks: none is dropped by a rule."""
SPAN_S = 2.0


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with closing(Lender(tmp_path_factory.mktemp("changes"), settings(PATIENT))) as known:
        yield known


@pytest.fixture
def runtime(lender: Lender) -> Iterator[Running]:
    with lender.lend() as lent:
        yield lent


async def under_load(runtime: Running, change: Callable[[], Awaitable[None]], names: str = "ab") -> list[Reply]:
    """Change something in the middle of some hundred requests, and return all answers."""

    async def meanwhile() -> None:
        await asyncio.sleep(SPAN_S / 3)
        await change()

    arrivals = sorted(request for n, name in enumerate(names) for request in poisson(120, SPAN_S, name, n))
    replies, _ = await asyncio.gather(play(runtime.url, arrivals), meanwhile())
    return replies


@pytest.mark.parametrize(
    "discipline",
    ["deferred", pytest.param("eager", marks=pytest.mark.slow), pytest.param("timeout", marks=pytest.mark.slow)],
)
def test_taking_an_instance_away_again_and_again_loses_no_request(discipline: str, runtime: Running) -> None:
    how = settings(PATIENT)
    first, second = whole(how.inventory)
    batching = (Batching(discipline, 0.02),) * 2
    both = SubCluster("all", (first, second), ("a", "b"), batching)

    async def story() -> None:
        executor = runtime.executor
        await executor.apply(brought_up([first, second], "ab", batching[0]))

        async def away_and_back() -> None:
            for _ in range(6):
                await executor.apply([Drain(first.id, ("a", "b"), "")])
                state = (await executor.observe()).state(first.id)
                assert state is not None
                assert set(state.draining) == {"a", "b"}
                going: list[Command] = [
                    StopReplicas(first.id, ("a", "b"), ""),
                    DestroyInstance(first.id, ""),
                    Release(first.gpu, ""),
                ]
                await executor.apply(going)
                back: list[Command] = [Acquire(first.gpu, ""), CreateInstance(first, "")]
                await executor.apply([*back, StartReplicas(first.id, ("a", "b"), batching, ""), routed(both)])
                await asyncio.sleep(0.1)

        replies = await under_load(runtime, away_and_back)
        assert [r for r in replies if r.status != 200] == []
        assert {r.body["instance"] for r in replies} == {first.id, second.id}

    asyncio.run(story())
    finished = runtime.finished(480)
    assert len(finished) == 480
    assert all(f["status"] != "dropped" for f in finished)


@pytest.mark.slow
def test_what_drains_gets_nothing_new_even_if_it_is_free_first(tmp_path: Path) -> None:
    slow = (service("a", slo_ms=10_000.0, beta_ms=500.0),)
    how = settings(slow)
    first, second = whole(how.inventory)

    async def story(runtime: Running) -> None:
        executor = runtime.executor
        await executor.apply(brought_up([first, second], "a", Batching("eager")))

        async def drain() -> None:
            await asyncio.sleep(0.25)  # both run by then, the first will be done first
            await executor.apply([Drain(first.id, ("a",), "")])

        replies, _ = await asyncio.gather(play(runtime.url, [(0.0, "a"), (0.1, "a"), (0.3, "a")]), drain())
        assert [r.body["instance"] for r in replies] == [first.id, second.id, second.id]

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime))


@pytest.mark.slow
def test_a_stop_drains_first_by_itself(runtime: Running) -> None:
    how = settings(PATIENT)
    first, second = whole(how.inventory)

    async def story() -> None:
        executor = runtime.executor
        await executor.apply(brought_up([first, second], "ab", Batching("eager")))
        replies = await under_load(runtime, lambda: executor.apply([StopReplicas(first.id, ("b",), "")]))
        assert {r.status for r in replies} == {200}
        state = (await executor.observe()).state(first.id)
        assert state is not None
        assert (state.loaded, state.draining) == (("a",), ())

    asyncio.run(story())


def test_batching_and_groups_change_without_loss(runtime: Running) -> None:
    """From timeout to deferred, then each service to a group of its own, eager and timeout, then back."""
    how = settings(PATIENT)
    first, second = whole(how.inventory)

    async def story() -> None:
        executor = runtime.executor
        await executor.apply(brought_up([first, second], "ab", Batching("timeout", 0.05)))

        async def change() -> None:
            deferred = (Batching("deferred"),) * 2
            together = SubCluster("all", (first, second), ("a", "b"), deferred)
            both = [SetBatching(i.id, ("a", "b"), deferred, "") for i in (first, second)]
            await executor.apply([*both, routed(together)])
            assert (await executor.observe()).sub_clusters == (together,)
            await asyncio.sleep(0.3)
            alone = SubCluster("one", (first,), ("a",), (Batching("eager"),))
            other = SubCluster("two", (second,), ("b",), (Batching("timeout", 0.01),))
            await executor.apply([routed(alone, other)])
            await asyncio.sleep(0.3)
            await executor.apply([routed(together)])

        replies = await under_load(runtime, change)
        assert [r for r in replies if r.status != 200] == []

    asyncio.run(story())
    assert len(runtime.finished(480)) == 480


def test_a_killed_worker_costs_what_it_ran_and_is_made_anew(runtime: Running) -> None:
    how = settings(PATIENT)
    first, second = whole(how.inventory)
    batching = (Batching("eager"),) * 2
    group = SubCluster("all", (first, second), ("a", "b"), batching)
    plan = Plan((HeldGpu(first.gpu), HeldGpu(second.gpu)), (group,), routed(group).routes)

    async def story() -> None:
        executor = runtime.executor
        await executor.apply(commands_for(plan, await executor.observe()))

        async def kill() -> None:
            os.kill((await runtime.state())["workers"][first.id], signal.SIGKILL)
            for _ in range(200):
                seen = await executor.observe()
                if seen.state(first.id) is None:
                    break
                await asyncio.sleep(0.01)
            assert seen.state(first.id) is None
            assert first.gpu in seen.held
            await executor.apply(commands_for(plan, seen))

        replies = await under_load(runtime, kill)
        assert {r.status for r in replies} <= {200, 502}
        failed = [r for r in replies if r.status == 502]
        assert len(failed) <= 64
        assert all("worker" in r.body["reason"] for r in failed)
        assert commands_for(plan, await executor.observe()) == ()
        assert first.id in {r.body["instance"] for r in replies[-120:] if r.status == 200}

    asyncio.run(story())


@pytest.mark.slow
def test_a_replica_that_was_drained_takes_requests_again_when_it_is_started(runtime: Running) -> None:
    how = settings(PATIENT)
    only = whole(how.inventory)[0]

    async def story() -> None:
        executor = runtime.executor
        await executor.apply(brought_up([only], "a", Batching("eager")))

        async def there_and_back() -> None:
            await executor.apply([Drain(only.id, ("a",), "")])
            await executor.apply([StartReplicas(only.id, ("a",), (Batching("eager"),), "")])

        assert {r.status for r in await under_load(runtime, there_and_back, "a")} == {200}

    asyncio.run(story())


@pytest.mark.slow
def test_a_drain_that_takes_too_long_is_busy_and_undone(tmp_path: Path) -> None:
    slow = (service("a", slo_ms=10_000, beta_ms=1500.0),)
    how = settings(slow, 1, drain_s=0.2)
    (only,) = whole(how.inventory)

    async def story(runtime: Running) -> None:
        executor = runtime.executor
        await executor.apply(brought_up([only], "a", Batching("eager")))
        sent = asyncio.create_task(play(runtime.url, [(0.0, "a")]))
        await asyncio.sleep(0.3)
        with pytest.raises(Busy, match="still runs a"):
            await executor.apply([StopReplicas(only.id, ("a",), "")])
        state = (await executor.observe()).state(only.id)
        assert state is not None
        assert (state.loaded, state.draining) == (("a",), ())
        assert [r.status for r in await sent] == [200]

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime))


def test_sigterm_answers_what_waits_and_runs(tmp_path: Path) -> None:
    how = settings(PATIENT)
    instances = whole(how.inventory)

    async def story(runtime: Running) -> None:
        await runtime.executor.apply(brought_up(instances, "ab", Batching("timeout", 0.3)))
        sent = asyncio.create_task(play(runtime.url, [(0.001 * n, "ab"[n % 2]) for n in range(60)]))
        await asyncio.sleep(0.25)  # all are there, and wait for their timeout
        workers = (await runtime.state())["workers"].values()
        runtime.process.send_signal(signal.SIGTERM)
        assert {r.status for r in await sent} == {200}
        assert await asyncio.to_thread(runtime.process.wait, 20) == 0
        assert not any(alive(pid) for pid in workers)

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime))
        assert len(runtime.finished()) == 60


def test_workers_die_with_a_runtime_that_is_killed(tmp_path: Path) -> None:
    how = settings(PATIENT)

    async def story(runtime: Running) -> None:
        await runtime.executor.apply(brought_up(whole(how.inventory), "a", Batching("eager")))
        workers = list((await runtime.state())["workers"].values())
        assert len(workers) == 2
        runtime.process.kill()
        for _ in range(500):
            if not any(alive(pid) for pid in workers):
                return
            await asyncio.sleep(0.01)
        pytest.fail("workers outlive their runtime")

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime))


@pytest.mark.slow
def test_instances_that_name_one_lock_file_share_one_device(tmp_path: Path) -> None:
    """On one device batches follow each other, so all together take at least the sum of their times."""
    how = settings((service("a", slo_ms=2000.0),))
    lock = str(tmp_path / "device.lock")
    how = replace(how, device=replace(how.device, locks={gpu.id: lock for gpu in how.inventory}))

    async def story(runtime: Running) -> None:
        await runtime.executor.apply(brought_up(whole(how.inventory), "a", Batching("eager", max_batch=4)))
        replies = await play(runtime.url, [(0.0005 * n, "a") for n in range(160)])
        assert {r.status for r in replies} == {200}
        assert len({r.body["instance"] for r in replies}) == 2

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime))
    finished = runtime.finished()
    curve = how.services[0].curve("whole")
    assert curve is not None
    busy_s = sum(curve.latency_s(f["batch"]) / f["batch"] for f in finished)
    first, last = (min(f["arrived_s"] for f in finished), max(f["arrived_s"] + f["latency_s"] for f in finished))
    assert last - first >= busy_s
