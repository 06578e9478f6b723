"""What is served of a controller: /metrics by Prometheus's rules, /healthz and /readyz by what they promise."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from partita import __version__
from partita.controller.live.metrics import MOST_VALUES, OTHERS, registry
from partita.controller.live.outlook import STUCK_S, Pulse, serve, unready
from partita.controller.live.status import Status
from partita.errors import ConfigError
from partita.store.live_batch import Refused
from partita.store.live_health import LogHealth, WriterHealth

WRITER = WriterHealth("gateway a", 90.0, 99.0, "live", 1000, 3, 2, 0, 4)
LOG = LogHealth(
    now_s=100.0,
    watermark_s=90.0,
    writers=(WRITER, replace(WRITER, name="gateway b", state="lost", duplicates=1)),
    late={"embed": 7},
    rejected={"too old": Refused(5, "x")},
    unconfigured={"unknown": 2.5},
)


def busy() -> Status:
    """Return a status in which everything is there."""
    status = Status("c", "h:1", "active", 1e9, near_s=10.0, attainment_target={"embed": 0.99, "detect": 0.95})
    status.leading, status.term, status.run, status.turn_s = True, 3, 7, 0.25
    status.decision = {"tick": 4, "gpus_wanted": 5}
    status.gpus_held, status.left, status.paused = 4, 2, "pause by x"
    status.missing = {"log": "away"}
    status.quarantine = {"gpu3": "hangs"}
    status.log = LOG
    status.replicas, status.offered_rps = {"embed": 4}, {"embed": 12.5}
    status.good, status.answered = {"embed": 98}, {"embed": 100}
    counted = status.counted
    counted.turns, counted.late_turns, counted.failures = 40, 1, 2
    counted.decisions = {"act": 3, "hold": 37}
    counted.commands = {("Acquire", "done"): 2, ("Acquire", "started"): 3}
    counted.troubles = {"log": 6}
    return status


def families(status: Status) -> dict[str, Metric]:
    """Scrape a status and read it back as Prometheus does."""
    text = generate_latest(registry(status)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(status: Status) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by its name and the values of its labels."""
    return {(s.name, tuple(s.labels.values())): s.value for f in families(status).values() for s in f.samples}


def test_every_number_of_a_status_is_there() -> None:
    found = values(busy())
    expected: Mapping[tuple[str, tuple[str, ...]], float] = {
        ("partita_build_info", (__version__,)): 1,
        ("partita_controller_leading", ()): 1,
        ("partita_controller_term", ()): 3,
        ("partita_turn_duration_seconds", ()): 0.25,
        ("partita_turns_total", ()): 40,
        ("partita_turns_late_total", ()): 1,
        ("partita_decisions_total", ("act",)): 3,
        ("partita_decisions_total", ("hold",)): 37,
        ("partita_commands_total", ("started", "Acquire")): 3,
        ("partita_plans_failed_total", ()): 2,
        ("partita_plan_commands_left", ()): 2,
        ("partita_gpus_held", ()): 4,
        ("partita_gpus_wanted", ()): 5,
        ("partita_replicas", ("embed",)): 4,
        ("partita_replicas", ("detect",)): 0,
        ("partita_offered_requests_per_second", ("embed",)): 12.5,
        ("partita_requests_good_total", ("embed",)): 98,
        ("partita_requests_answered_total", ("embed",)): 100,
        ("partita_attainment_target_ratio", ("detect",)): 0.95,
        ("partita_signal_missing", ("log",)): 1,
        ("partita_signal_missing", ("cluster",)): 0,
        ("partita_signal_missing_turns_total", ("log",)): 6,
        ("partita_signal_missing_turns_total", ("cluster",)): 0,
        ("partita_log_lag_seconds", ()): 10,
        ("partita_log_rows_rejected_total", ("too old",)): 5,
        ("partita_log_rows_late_total", ("embed",)): 7,
        ("partita_log_duplicate_batches_total", ()): 5,
        ("partita_log_requests_lost_total", ()): 4,
        ("partita_log_writers", ("live",)): 1,
        ("partita_log_writers", ("lost",)): 1,
        ("partita_log_writers", ("closed",)): 0,
        ("partita_log_unconfigured_requests_per_second", ("unknown",)): 2.5,
        ("partita_paused", ()): 1,
        ("partita_quarantined", ()): 1,
    }
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("status", [busy(), Status("c", "h", "advisory", 0.0)], ids=["busy", "fresh"])
def test_names_follow_the_rules_of_prometheus(status: Status) -> None:
    # https://prometheus.io/docs/practices/naming: prefix, base units, _total on counters and on nothing else.
    for name, family in families(status).items():
        assert name.startswith("partita_")
        assert family.documentation.endswith((".", "1."))
        assert family.type in ("gauge", "counter")
        assert not any(name.endswith(unit) for unit in ("_ms", "_us", "_s", "_percent", "_gib", "_rps"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_a_status_with_nothing_in_it_can_be_scraped() -> None:
    found = values(Status("c", "h", "active", 0.0))
    assert found["partita_controller_leading", ()] == 0
    assert not any(name.startswith("partita_log_") for name, _ in found)


def test_names_from_outside_do_not_make_series_without_end() -> None:
    status = busy()
    status.log = replace(LOG, unconfigured={f"s{n}": float(n) for n in range(1, 1001)})
    found = {labels: v for (name, labels), v in values(status).items() if "unconfigured" in name}
    assert len(found) == MOST_VALUES + 1
    assert found[OTHERS,] == sum(range(1, 1001 - MOST_VALUES))


def test_every_metric_is_in_the_manual() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/run.md").read_text("utf-8")
    for name, family in families(busy()).items():
        shown = name + ("_total" if family.type == "counter" else "")
        assert f"`{shown}" in page, f"docs/run.md does not name {shown}"


# Health -------------------------------------------------------------------------------------------------------------


def test_a_loop_that_stands_still_is_called_stuck_and_one_that_turns_never() -> None:
    status, now = busy(), [0.0]
    pulse = Pulse(status, clock=lambda: now[0])
    now[0] = STUCK_S
    assert pulse.problem() == ""
    now[0] = STUCK_S + 1
    assert pulse.problem() == "the loop has not turned for 61 s, and should every 10 s"
    status.counted.turns += 1
    assert pulse.problem() == ""
    now[0] += 1000
    status.counted.turns += 1
    assert pulse.problem() == "", "nobody asked for long, but it turned in between"
    now[0] += 1000
    status.leading = False
    assert pulse.problem() == "", "a standby does not turn"
    now[0] += 1000
    status.leading = True
    assert pulse.problem() == "", "it has only just begun"
    status.near_s = 60.0
    now[0] += 300
    assert pulse.problem() == ""
    now[0] += 1
    assert "should every 60 s" in pulse.problem()


def test_ready_is_who_leads_or_stands_by_with_all_signals() -> None:
    status = busy()
    assert unready(status) == ["log is missing: away"]
    status.missing = {}
    assert unready(status) == [], "a pause and a late log are an operator's affair"
    status.trouble = "the database\nis away"
    assert unready(status) == ["the database is away"]
    status.leading, status.missing, status.trouble = False, {"cluster": "unseen"}, ""
    assert unready(status) == [], "what a standby saw when it led is over"


async def _ask(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_all_three_are_served_until_it_ends() -> None:
    async def play() -> None:
        status, port = busy(), _free_port()
        end = await serve(status, f"127.0.0.1:{port}")
        try:
            code, text, kind = await _ask(port, "/metrics")
            assert code == 200
            assert kind.startswith("text/plain; version=")
            assert "partita_controller_term 3.0\n" in text
            assert (await _ask(port, "/healthz"))[:2] == (200, "ok\n")
            assert (await _ask(port, "/readyz"))[:2] == (503, "log is missing: away\n")
            status.missing = {}
            assert (await _ask(port, "/readyz"))[:2] == (200, "ready: leading, term 3\n")
            status.leading = False
            assert (await _ask(port, "/readyz"))[:2] == (200, "ready: standing by\n")
            with pytest.raises(ConfigError, match=f"watch.listen: cannot listen at 127.0.0.1:{port}: "):
                await serve(status, f"127.0.0.1:{port}")
        finally:
            await end()
        with pytest.raises(aiohttp.ClientConnectionError):
            await _ask(port, "/healthz")

    asyncio.run(play())


def test_a_port_that_is_none_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"watch.listen: cannot listen at 127.0.0.1:99999: "):
        asyncio.run(serve(busy(), "127.0.0.1:99999"))
