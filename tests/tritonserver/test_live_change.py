"""Models of a real server are changed while they serve: what is sent, what clients notice, and what is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from tritonserver.proxy import proxy
from tritonserver.rig import (
    ONE,
    OTHER,
    SWIFT,
    WHOLE,
    ask,
    config_of,
    emptied,
    executor_on,
    holding,
    load_on,
    state_of,
    states,
    through,
)

from partita.errors import Busy, Failed, Unsupported
from partita.executors.triton.api import Endpoint
from partita.executors.triton.emulated_model import infer_request
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.loading import Patience
from partita.executors.triton.server import TritonServer
from partita.model.cluster import Batching, Status
from partita.model.plan import Drain, SetBatching, StartReplicas, StopReplicas

GPU = WHOLE[0].id


@pytest.fixture
def server(shared_servers: tuple[TritonServer, TritonServer]) -> TritonServer:
    return shared_servers[0]


def play(
    server: TritonServer, folder: Path, story: Callable[[TritonExecutor, Endpoint], Awaitable[None]], **settings: object
) -> None:
    async def played() -> None:
        async with emptied(server.endpoint), executor_on([server.endpoint], folder, **settings) as executor:
            await executor.apply(holding(WHOLE[0]))
            await story(executor, server.endpoint)

    asyncio.run(played())


def test_batching_changes_under_load_without_one_failed_request(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a", "b"), (ONE, ONE), "")])
        done = asyncio.Event()
        load = asyncio.create_task(load_on(endpoint, ["model-a", "model-b"], rate_rps=120.0, done=done))
        changes = (OTHER, Batching("timeout", 0.03, 16), Batching("triton", 0.03, 16, (("instances", 2),)), ONE)
        for batching in changes:
            await asyncio.sleep(0.3)
            await executor.apply([SetBatching(GPU, ("a", "b"), (batching, batching), "")])
            assert dict((await state_of(executor, WHOLE[0])).batching) == {"a": batching, "b": batching}
        done.set()
        answers = await load
        assert len(answers) > 200
        assert [a for a in answers if isinstance(a, int)] == []

    play(server, tmp_path, story)


@pytest.mark.slow
def test_a_longer_timeout_makes_larger_batches(server: TritonServer, tmp_path: Path) -> None:
    async def mean_batch(executor: TritonExecutor, endpoint: Endpoint, timeout_s: float) -> float:
        await executor.apply([SetBatching(GPU, ("a",), (Batching("timeout", timeout_s, 16),), "")])
        done = asyncio.Event()
        load = asyncio.create_task(load_on(endpoint, ["model-a"], rate_rps=100.0, done=done))
        await asyncio.sleep(1.0)
        done.set()
        sizes = [answer["BATCH"] for answer in await load if not isinstance(answer, int)]
        return sum(sizes) / len(sizes)

    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (ONE,), "")])
        # At 100 requests a second, 80 ms gather about 8 of them; without a timeout a request waits for no other.
        assert await mean_batch(executor, endpoint, 0.08) > 2 * await mean_batch(executor, endpoint, 0.0)

    play(server, tmp_path, story)


@pytest.mark.slow
def test_two_services_never_use_their_device_at_one_time(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a", "b"), (ONE, ONE), "")])
        async with aiohttp.ClientSession() as session:
            asked = [ask(session, endpoint, model) for _ in range(40) for model in ("model-a", "model-b")]
            answers = [a for a in await asyncio.gather(*asked) if not isinstance(a, int)]
        spans = sorted({(a["STARTED_NS"], a["FINISHED_NS"]) for a in answers})
        assert len(answers) == 80
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))

    play(server, tmp_path, story)


def test_what_is_so_already_is_not_sent(server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with (
            emptied(server.endpoint),
            proxy(server.endpoint.url) as seen,
            executor_on([through(server.endpoint, seen.url)], tmp_path) as executor,
        ):
            await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a",), (ONE,), "")], term=1)
            sent = len(seen.loads)
            await executor.apply([SetBatching(GPU, ("a",), (ONE,), ""), StartReplicas(GPU, ("a",), (ONE,), "")], term=2)
            assert len(seen.loads) == sent

    asyncio.run(played())


@pytest.mark.slow
def test_every_configuration_sent_is_complete(server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with (
            emptied(server.endpoint),
            proxy(server.endpoint.url) as seen,
            executor_on([through(server.endpoint, seen.url)], tmp_path) as executor,
        ):
            await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a", "c"), (ONE, OTHER), "")])
            await executor.apply([SetBatching(GPU, ("a", "c"), (OTHER, ONE), "")])
            shown = {name: await config_of(server.endpoint, name) for name in ("model-a", "model-c")}
            # Two models, each loaded as its file says, then as wished, then changed; only the first has no config.
            assert [config is None for config in seen.loads] == [True, True, False, False, False, False]
            for config in seen.loads:
                if config is not None:
                    full = shown[config["name"]]
                    assert config.keys() == full.keys()
                    assert [config[key] for key in ("input", "output", "backend")] == [
                        full[key] for key in ("input", "output", "backend")
                    ]

    asyncio.run(played())


@pytest.mark.slow
def test_another_number_of_model_instances_loads_nothing_anew(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (ONE,), "")])
        first = server.log.read_text().count("ModelInstanceInitialize: model-a_0_0")
        two = Batching("timeout", ONE.timeout_s, ONE.max_batch, (("instances", 2),))
        await executor.apply([SetBatching(GPU, ("a",), (two,), "")])
        assert (await state_of(executor, WHOLE[0])).batching["a"] == two
        assert server.log.read_text().count("ModelInstanceInitialize: model-a_0_0") == first
        assert "ModelInstanceInitialize: model-a_0_1" in server.log.read_text()

    play(server, tmp_path, story)


def test_a_refused_configuration_leaves_the_old_one_serving(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (ONE,), "")])
        before = await config_of(endpoint, "model-a")
        command = SetBatching(GPU, ("a",), (Batching("timeout", 0.0, 64),), "")
        with pytest.raises(Failed, match="this engine takes batches up to 32") as failure:
            await executor.apply([command])
        assert failure.value.command == command
        assert await config_of(endpoint, "model-a") == before
        async with aiohttp.ClientSession() as session:
            assert isinstance(await ask(session, endpoint, "model-a"), dict)
        assert (await state_of(executor, WHOLE[0])).batching == {"a": ONE}

    play(server, tmp_path, story)


@pytest.mark.slow
def test_a_model_that_cannot_start_as_wished_is_not_left_loaded(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        with pytest.raises(Failed, match="this engine takes batches up to 32"):
            await executor.apply([StartReplicas(GPU, ("a",), (Batching("timeout", 0.0, 64),), "")])
        assert (await state_of(executor, WHOLE[0])).loaded == ()

    play(server, tmp_path, story)


def test_a_model_that_fails_its_probe_gets_its_former_configuration_back(server: TritonServer, tmp_path: Path) -> None:
    probe = infer_request()

    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (ONE,), "")])
        before = await config_of(endpoint, "model-a")
        probe["inputs"][0]["name"] = "NO_SUCH_INPUT"
        with pytest.raises(Failed, match=r"NO_SUCH_INPUT.*former configuration is back"):
            await executor.apply([SetBatching(GPU, ("a",), (OTHER,), "")])
        assert await config_of(endpoint, "model-a") == before

    play(server, tmp_path, story, probes={"a": probe})


@pytest.mark.slow
def test_a_model_too_busy_for_its_probe_keeps_its_new_configuration(server: TritonServer, tmp_path: Path) -> None:
    """400 ms a request, 20 a second, and 100 ms to wait at most: the probe is given up by the queue policy."""
    policy = (("queue_policy", "reject"), ("queue_timeout_ms", 100.0))
    one, two = (Batching("timeout", 0.0, 1, (*number, *policy)) for number in ((), (("instances", 2),)))

    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("slow",), (one,), "")])
        done = asyncio.Event()
        load = asyncio.create_task(load_on(endpoint, ["slow"], rate_rps=20.0, done=done))
        await asyncio.sleep(1.0)
        await executor.apply([SetBatching(GPU, ("slow",), (two,), "")])
        assert (await state_of(executor, WHOLE[0])).batching == {"slow": two}
        done.set()
        assert [a for a in await load if isinstance(a, int)] != []  # others were given up as well

    probes = {"slow": infer_request()}
    play(server, tmp_path, story, probes=probes)


def test_a_probe_that_waits_for_its_batch_longer_than_we_do_says_nothing(server: TritonServer, tmp_path: Path) -> None:
    long = Batching("timeout", 1.5, 4)

    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (long,), "")])
        assert (await state_of(executor, WHOLE[0])).batching == {"a": long}

    play(server, tmp_path, story, probes={"a": infer_request()}, patience=Patience(call_s=0.8, quiet_s=0.1))


@pytest.mark.slow
def test_with_unload_first_a_model_is_gone_before_it_loads_anew(server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with emptied(server.endpoint), proxy(server.endpoint.url) as seen:
            endpoint = through(server.endpoint, seen.url)
            async with executor_on([endpoint], tmp_path, reload="unload_first") as executor:
                await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a",), (ONE,), "")])
                seen.calls.clear()
                await executor.apply([SetBatching(GPU, ("a",), (OTHER,), "")])
                assert seen.calls == ["unload", "load"]
                with pytest.raises(Failed, match="this engine takes batches up to 32"):
                    await executor.apply([SetBatching(GPU, ("a",), (Batching("timeout", 0.0, 64),), "")])
                assert (await state_of(executor, WHOLE[0])).batching == {"a": OTHER}

    asyncio.run(played())


def test_a_drained_model_has_answered_everything_before_it_is_unloaded(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("slow",), (Batching("timeout", 0.0, 1),), "")])
        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(ask(session, endpoint, "slow")) for _ in range(4)]  # 4 × 400 ms
            await asyncio.sleep(0.1)
            await executor.apply([Drain(GPU, ("slow",), "")])
            assert sum(a.done() for a in asked) >= 3  # nobody waits; the last one may still run
            await executor.apply([StopReplicas(GPU, ("slow",), "")])
            assert all(isinstance(a, dict) for a in await asyncio.gather(*asked))
            assert (await states(session, endpoint))["slow"] in ("", "UNAVAILABLE")
        assert (await state_of(executor, WHOLE[0])).loaded == ()

    play(server, tmp_path, story)


@pytest.mark.slow
def test_a_drain_that_does_not_end_is_busy_and_stays_marked(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("slow",), (Batching("timeout", 0.0, 1),), "")])
        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(ask(session, endpoint, "slow")) for _ in range(4)]
            await asyncio.sleep(0.1)
            with pytest.raises(Busy, match="still has work"):
                await executor.apply([Drain(GPU, ("slow",), "")])
            state = await state_of(executor, WHOLE[0])
            assert (state.status, state.loaded, state.draining) == (Status.DRAINING, ("slow",), ("slow",))
            await asyncio.gather(*asked)
        await executor.apply([StartReplicas(GPU, ("slow",), (Batching("timeout", 0.0, 1),), "")])
        assert (await state_of(executor, WHOLE[0])).draining == ()

    play(server, tmp_path, story, patience=Patience(drain_s=0.3, quiet_s=0.1))


@pytest.mark.slow
def test_a_load_whose_answer_is_lost_is_read_back(server: TritonServer, tmp_path: Path) -> None:
    impatient = Patience(load_s=1.5, quiet_s=0.1)

    async def played() -> None:
        async with (
            emptied(server.endpoint),
            proxy(server.endpoint.url) as seen,
            executor_on([through(server.endpoint, seen.url)], tmp_path, patience=impatient) as executor,
        ):
            await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a",), (ONE,), "")])
            seen.lose_answers = True
            await executor.apply([SetBatching(GPU, ("a",), (OTHER,), "")])
            assert (await state_of(executor, WHOLE[0])).batching == {"a": OTHER}

    asyncio.run(played())


def test_no_second_load_is_sent_while_the_outcome_of_one_is_unknown(server: TritonServer, tmp_path: Path) -> None:
    impatient = Patience(load_s=0.5, quiet_s=0.1)

    async def played() -> None:
        async with (
            emptied(server.endpoint),
            proxy(server.endpoint.url) as seen,
            executor_on([through(server.endpoint, seen.url)], tmp_path, patience=impatient) as executor,
        ):
            await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a",), (ONE,), "")])
            sent, seen.hold = len(seen.loads), asyncio.Event()
            with pytest.raises(Failed, match="no known outcome"):
                await executor.apply([SetBatching(GPU, ("a",), (OTHER,), "")])
            with pytest.raises(Busy, match="has not ended"):
                await executor.apply([SetBatching(GPU, ("a",), (Batching("timeout", 0.02, 2),), "")])
            assert len(seen.loads) == sent + 1
            seen.hold.set()
            while (await config_of(server.endpoint, "model-a"))["max_batch_size"] != OTHER.max_batch:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.1)
            await executor.apply([SetBatching(GPU, ("a",), (Batching("timeout", 0.02, 2),), "")])
            assert (await state_of(executor, WHOLE[0])).batching == {"a": Batching("timeout", 0.02, 2)}

    asyncio.run(played())


def test_a_model_set_by_a_later_term_is_left_alone(server: TritonServer, tmp_path: Path) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        await executor.apply([StartReplicas(GPU, ("a",), (ONE,), "")], term=9)
        (tmp_path / "book.json").unlink()  # without its book, only the model itself still knows
        await executor.apply(holding(WHOLE[0]), term=8)
        with pytest.raises(Failed, match="term 9 has set model model-a"):
            await executor.apply([SetBatching(GPU, ("a",), (OTHER,), "")], term=8)
        assert (await state_of(executor, WHOLE[0])).batching == {"a": ONE}

    play(server, tmp_path, story)


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        (StartReplicas(GPU, ("stranger",), (ONE,), ""), Unsupported, "no Triton model is known for service stranger"),
        (StartReplicas(GPU, ("lost",), (ONE,), ""), Failed, "has no model no-such-model in its repository"),
        (SetBatching(GPU, ("a",), (ONE,), ""), Failed, "has not loaded model model-a"),
        (StartReplicas(GPU, ("a",), (Batching("deferred"),), ""), Unsupported, "cannot batch as 'deferred'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    server: TritonServer, tmp_path: Path, command: StartReplicas, kind: type[Exception], words: str
) -> None:
    async def story(executor: TritonExecutor, endpoint: Endpoint) -> None:
        with pytest.raises(kind, match=words):
            await executor.apply([command])

    play(server, tmp_path, story, models={"a": "model-a", "lost": "no-such-model"}, patience=SWIFT)
