"""What operators see and may ask, through the command line, from rows as a controller writes them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import gpus

from partita.controller.cli import main
from partita.controller.cluster_file import ClusterFile
from partita.controller.commands import commands_for, signature
from partita.controller.live.controller import _plain as reported
from partita.controller.live.status import Status
from partita.controller.recording import encode
from partita.controller.scenario_file import parse
from partita.controller.wording import moment
from partita.model.cluster import Batching, ClusterState, Instance, InstanceState, Route, SubCluster
from partita.model.cluster import Status as Stage
from partita.model.load import Load, Observation, Outcome
from partita.model.plan import Action, Command, Decision, HeldGpu, Objective, Plan, StartReplicas
from partita.ports import Tick
from partita.store.connection import connect
from partita.store.journal import PostgresJournal
from partita.store.leadership import Leadership
from partita.store.line import Line
from partita.store.live_health import LogHealth, WriterHealth
from partita.store.operation import Operation, Standing

ROLE = "inference"
FILE = """\
name: inference
cluster: [{gpu: A100-80GB, count: 3}]
services: [{name: embed, slo_ms: 200, memory_gib: 2.0, latency: {points: {1: 6.0, 8: 20.5}}}]
executor: {local: {}}
"""
AT_S = 1_795_600_000.0


def plan_of(number: int, reason: str, *, discipline: str = "eager") -> Plan:
    """Return a plan that holds the first few GPUs."""
    held = gpus(number)
    instances = tuple(Instance(g.id, g.id, g.memory_gib) for g in held)
    group = SubCluster("all", instances, ("embed",), (Batching(discipline),))
    return Plan(tuple(HeldGpu(g.id) for g in held), (group,), (Route("embed", "all"),), reason)


def cluster_of(plan: Plan) -> ClusterState:
    """Return the cluster that is a plan."""
    states = tuple(
        InstanceState(i, Stage.READY, g.services, batching=dict(zip(g.services, g.batching, strict=True)))
        for g in plan.sub_clusters
        for i in g.instances
    )
    return ClusterState(tuple(h.gpu for h in plan.gpus), states, plan.sub_clusters, plan.routes)


ONE, TWO, THREE = (plan_of(n, f"{n} will do") for n in (1, 2, 3))


def decision_of(tick: int, plan: Plan | None, commands: Sequence[Command], reason: str) -> Decision:
    return Decision(
        tick=tick,
        at_s=AT_S + tick,
        action=Action.ACT if commands else Action.HOLD,
        chosen=f"{len(plan.gpus)} GPUs" if plan else "standing",
        reason=reason,
        opinions=(),
        candidates=(),
        commands=tuple(commands),
        objective=Objective(),
        offered_rps=100.0,
        forecast_rps=0.0,
        gpus_held=1,
        gpus_wanted=len(plan.gpus) if plan else 1,
    )


@dataclass
class House:
    """A cluster in a database, written to as its leader does."""

    dsn: str
    role: str = ROLE
    holder: str = "host:1"
    mode: str = "active"
    run: int = 0

    def do(self, work: Callable[[Operation, Leadership], Coroutine[Any, Any, Any]]) -> Any:
        """Do something as the leader."""

        async def play() -> Any:
            line, other = Line(self.dsn), Line(self.dsn)
            leadership = Leadership(other, self.role, self.holder)
            try:
                assert await leadership.strive()
                operation = Operation(line, self.role)
                operation.term = leadership.require()
                return await work(operation, leadership)
            finally:
                await leadership.resign()
                await line.close()
                await other.close()

        return asyncio.run(play())

    def begin(self) -> None:
        document = parse(ClusterFile, FILE, name="c.yaml", folder=Path()).document()

        async def work(operation: Operation, _: Leadership) -> int:
            return await operation.begin_run(policy="symphony", scenario=document, mode=self.mode)

        self.run = self.do(work)

    def decide(
        self,
        tick: int,
        plan: Plan | None,
        *,
        before: Plan = ONE,
        good: Plan = ONE,
        fate: str = "done",
        reason: str = "it pays",
    ) -> None:
        """Journal a decision, put its plan into force, and let its commands end so."""
        commands = commands_for(plan, cluster_of(before)) if plan else ()

        async def work(operation: Operation, leadership: Leadership) -> None:
            line = Line(self.dsn)
            journal = PostgresJournal(line, self.run, leading=leadership.require())
            await journal.record(Tick(decision_of(tick, plan, commands, reason), None, None, plan))
            await line.close()
            if plan is not None:
                await operation.put_standing(Standing(self.run, tick, plan, good))
            for position, command in enumerate(commands):
                await self._carry(operation, tick, position, command, fate, last=position == len(commands) - 1)

        self.do(work)

    async def _carry(
        self, operation: Operation, tick: int, position: int, command: Command, fate: str, *, last: bool
    ) -> None:
        if fate == "written":
            return
        await operation.tell(self.run, tick, position, attempt=1, event="started", seen={"held": False})
        if fate == "failed" and last:
            await operation.tell(self.run, tick, position, attempt=1, event="failed", problem="no answer")
            await operation.strike({signature(command): "no answer", "gpu2": "no answer"}, 300.0)
            return
        if not (fate == "underway" and last):
            await operation.tell(self.run, tick, position, attempt=1, event="done")

    def say(self, status: Status, *, ago_s: float = 0.0, leads: bool = True) -> None:
        """Report as a controller does; then let time pass, and let it lead or not."""

        async def play() -> None:
            line = Line(self.dsn)
            try:
                document = {**reported(status), "problems": status.problems()}
                await Operation(line, self.role).report(status.holder, document)
                if leads:
                    await Leadership(line, self.role, status.holder, term_s=600.0).strive()
                async with line.held("the clock") as connection:
                    await connection.execute(
                        "UPDATE controller SET seen_at = seen_at - $2 * interval '1 second' WHERE holder = $1",
                        status.holder,
                        ago_s,
                    )
            finally:
                await line.close()

        asyncio.run(play())

    def see(self, tick: int, cluster: ClusterState) -> None:
        """Keep what a turn saw."""
        observation = Observation(AT_S, AT_S, Load(("embed",), AT_S, 1.0, np.zeros((1, 1))), cluster)

        async def work(operation: Operation, _: Leadership) -> None:
            await operation.keep_observation(self.run, tick, encode(observation), None)

        self.do(work)


@pytest.fixture
def house(pg_dsn: str) -> House:
    found = House(pg_dsn)
    found.begin()
    return found


def status_of(house: House, holder: str = "host:1") -> Status:
    """Return what a healthy leader reports."""
    status = Status(ROLE, holder, "active", AT_S - 60, near_s=0.1, attainment_target={"embed": 0.99})
    status.run = house.run
    status.log = LogHealth(AT_S, AT_S - 2, (WriterHealth("gateway a", AT_S, AT_S - 1, "live", 5000, 0, 0, 0, 0),))
    load = Load(("embed",), AT_S - 1, 1.0, np.full((1, 1), 120.0))
    status.saw(Observation(AT_S, AT_S - 2, load, cluster_of(TWO), {"embed": Outcome(200, 198, 2, 0)}))
    status.decided(decision_of(41, TWO, commands_for(TWO, cluster_of(ONE)), "2 GPUs pay"), 0.02)
    status.decided(decision_of(42, None, (), "nothing saves enough"), 0.02)
    return status


def partita(capsys: pytest.CaptureFixture[str], house: House | str, *arguments: str) -> tuple[int, str, str]:
    """Run a command against the database; return exit code, stdout and stderr."""
    dsn = house if isinstance(house, str) else house.dsn
    try:
        main([*arguments, "--dsn", dsn])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


# partita status -----------------------------------------------------------------------------------------------------


def test_where_there_never_was_a_controller(capsys: pytest.CaptureFixture[str], pg_dsn: str) -> None:
    sentence = "Error: no controller is running, nor has one run with this database: partita run starts one\n"
    for command in (["status"], ["plan", "show"], ["pause"], ["status", "--json"]):
        assert partita(capsys, pg_dsn, *command) == (1, "", sentence)
    code, out, err = partita(capsys, pg_dsn, "status", "--name", "x")
    assert (code, out) == (2, "")
    assert "no cluster is called 'x'; no controller has reported" in err


def test_a_leader_and_its_standby(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.say(status_of(house))
    house.say(Status(ROLE, "host:2", "active", AT_S), leads=False)
    code, out, err = partita(capsys, house, "status")
    assert (code, err) == (0, "")
    lines = dict(re.findall(r"^(\S.{15})(.*)$", out, flags=re.MULTILINE))
    found = {heading.strip(): text for heading, text in lines.items()}
    assert list(found)[:3] == ["cluster", "leads", "stands by"]
    assert found["cluster"] == ROLE
    assert re.fullmatch(r"host:1, term \d+, active, started 2026-\d\d-\d\d .*", found["leads"])
    assert found["stands by"].startswith("host:2, active")
    assert found["last decision"].startswith(f"42 of run {house.run}, 2026-")
    assert found["last decision"].endswith("held: standing: nothing saves enough")
    assert found["last that acted"].endswith("acted: 2 GPUs pay")
    assert found["GPUs"] == "2 GPUs held, 1 wanted"
    assert found["services"] == "embed: 2 replicas, 120.0 requests a second, 99.00 % (target 99 %) in time of 200"
    assert found["work left"] == "none"
    assert found["log"].endswith(", 2 s behind")
    assert found["gateways"] == "gateway a: live, 5,000 requests, seen 1 s before"
    assert found["problems"] == "none"


def test_everything_that_is_wrong_is_named(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, before=ONE, fate="failed")
    status = status_of(house)
    assert status.log is not None
    status.missing = {"log": "it stands still"}
    status.failed, status.paused, status.left = "StartReplicas gpu1: no answer", "pause by ann@desk: driver", 2
    status.good, status.answered = {"embed": 90}, {"embed": 100}
    status.log = replace(status.log, unconfigured={"rerank": 3.0})
    house.say(status)
    _, out, _ = partita(capsys, house, "status")
    assert "2 commands" in out
    assert f"plan in force   the last good one before that of decision 41, run {house.run}, since " in out
    assert "last failure    StartReplicas gpu1: no answer" in out
    assert "paused          pause by ann@desk: driver (partita resume ends it)" in out
    assert "90.00 % of 99 % in time of 100" in out
    assert re.search(r"left alone +gpu2 until 20\d\d-.*, struck once: no answer", out)
    assert re.search(r"SetRoutes routes until 20\d\d-.*, struck once: no answer", out)
    for problem in (
        "log is missing: it stands still",
        "the last plan failed: StartReplicas gpu1: no answer",
        "paused: pause by ann@desk: driver",
        "service rerank is logged, 3.0 requests a second, but not configured",
    ):
        assert problem in out


def test_a_silent_leader_and_a_standby_that_will_take_over(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.say(status_of(house), ago_s=45.0, leads=False)
    house.say(Status(ROLE, "host:2", "active", AT_S), leads=False)
    code, out, _ = partita(capsys, house, "status")
    assert code == 0
    assert re.search(r"silent +host:1, last heard of 45(\.\d)? s ago", out)
    assert "nobody leads: the cluster stays as it is until a controller takes over" in out
    assert "host:1 was not heard of for 45" in out


def test_where_nothing_runs_any_more(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO)
    house.say(status_of(house), ago_s=7200.0, leads=False)
    code, out, err = partita(capsys, house, "status")
    assert code == 1
    assert err == (
        f"Error: no controller of {ROLE} is running: host:1 was last heard of 2 hours ago; "
        f"the plan of decision 41, run {house.run}, stays in force as it is\n"
    )
    assert "plan in force" in out


def test_what_is_left_alone_can_be_tried_again(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, before=ONE, fate="failed")
    house.say(status_of(house))
    assert "left alone" in partita(capsys, house, "status")[1]
    code, _, _ = partita(capsys, house, "resume", "--retry", "--no-wait")
    assert code == 0
    assert "left alone" not in partita(capsys, house, "status")[1]


def test_after_an_orderly_end(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO)
    code, _, err = partita(capsys, house, "status")
    assert code == 1
    assert err.startswith(f"Error: no controller of {ROLE} is running; the plan of decision 41, run {house.run},")


def test_status_as_json(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO)
    house.say(status_of(house))
    code, out, err = partita(capsys, house, "status", "--json", "--name", ROLE)
    found = json.loads(out)
    assert (code, err, found["cluster"]) == (0, "", ROLE)
    assert (found["leader"]["holder"], found["leader"]["holds"]) == ("host:1", True)
    assert [(c["holder"], c["state"]) for c in found["controllers"]] == [("host:1", "leading")]
    assert found["standing"]["tick"] == 41
    assert found["status"]["decision"]["reason"] == "nothing saves enough"
    assert found["status"]["replicas"] == {"embed": 2}
    assert found["problems"] == []


def test_an_advisory_controller_is_asked_for_by_name(capsys: pytest.CaptureFixture[str], house: House) -> None:
    other = House(house.dsn, f"{ROLE}/advisory", "host:9", "advisory")
    other.begin()
    house.say(status_of(house))
    other.say(Status(ROLE, "host:9", "advisory", AT_S))
    assert "host:1" in partita(capsys, house, "status")[1]
    assert "host:9" in partita(capsys, house, "status", "--name", f"{ROLE}/advisory")[1]
    code, _, err = partita(capsys, house, "status", "--name", "inferenc")
    assert code == 2
    assert "no cluster is called 'inferenc'" in err
    assert f"{ROLE}/advisory" in err


# partita plan -------------------------------------------------------------------------------------------------------


def test_the_plan_in_force_and_its_story(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, fate="underway")
    code, out, _ = partita(capsys, house, "plan", "show")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"The plan in force (decision 41, run {house.run}): 2 will do."
    assert lines[1:5] == [
        "    Holds 2 GPUs: gpu0, gpu1 whole.",
        "    Sub-cluster all: 2 instances (gpu0, gpu1).",
        "        embed: eager",
        "    Routes: embed to all.",
    ]
    assert lines[5] == "Commands: being carried out, 3 of 4 commands done."
    assert lines[6].startswith("   0  Acquire gpu1: done in ")
    assert re.fullmatch(r" {10}20.*  started \(term \d+\)", lines[7])
    assert lines[-2] == "   3  SetRoutes routes: under way, by host:1"


def test_plans_as_json(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, fate="underway")
    number = f"{house.run}/41"
    found = json.loads(partita(capsys, house, "plan", "show", number, "--json")[1])
    assert (found["run"], found["tick"], found["in_force"]) == (house.run, 41, True)
    assert [h["gpu"] for h in found["plan"]["gpus"]] == ["gpu0", "gpu1"]
    assert [c["verb"] for c in found["commands"]] == ["Acquire", "CreateInstance", "StartReplicas", "SetRoutes"]
    assert [e["event"] for e in found["commands"][0]["events"]] == ["started", "done"]
    assert [e["event"] for e in found["commands"][3]["events"]] == ["started"]
    assert found["commands"][0]["events"][0]["seen"] == {"held": False}
    found = json.loads(partita(capsys, house, "plan", "diff", "--json", "good", number)[1])
    assert found["differs"] is True
    assert found["changes"]["replicas"] == {"embed": [1, 2]}
    found = json.loads(partita(capsys, house, "plan", "history", "--json")[1])
    assert [(e["tick"], e["by"], e["outcome"], e["in_force"]) for e in found] == [
        (41, "symphony", "being carried out, 3 of 4 commands done", True)
    ]


def test_differences(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO)
    house.decide(42, THREE, before=TWO, good=TWO, fate="underway")
    current = f"the plan in force (decision 42, run {house.run})"
    code, out, _ = partita(capsys, house, "plan", "diff")
    assert code == 0
    assert out.splitlines() == [
        f"From the last good plan to {current}:",
        "    takes 1 GPU: gpu2",
        "    embed: 2 → 3 replicas, starts on gpu2",
    ]
    out = partita(capsys, house, "plan", "diff", f"{house.run}/41")[1]
    assert out.splitlines()[0] == f"From the plan of decision 41, run {house.run} to {current}:"
    assert partita(capsys, house, "plan", "diff", "current", "current")[1].splitlines()[1] == "    No difference."


def test_a_plan_that_is_carried_out_is_the_good_one(capsys: pytest.CaptureFixture[str], house: House) -> None:
    """The row of the standing plan holds what was good when it was put into force, which may be an older one."""
    house.decide(41, TWO, good=ONE)
    assert "Holds 2 GPUs" in partita(capsys, house, "plan", "show", "good")[1]
    house.decide(42, THREE, before=TWO, good=TWO, fate="underway")
    assert "Holds 2 GPUs" in partita(capsys, house, "plan", "show", "good")[1]


def test_a_good_plan_is_compared_with_what_was_seen(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, good=TWO)
    code, _, err = partita(capsys, house, "plan", "diff")
    assert code == 1
    assert "nothing is kept of what the controller of inference saw" in err
    house.see(42, cluster_of(plan_of(1, "")))
    lines = partita(capsys, house, "plan", "diff")[1].splitlines()
    assert lines[0].endswith(f"to the cluster as seen at turn 42, run {house.run}:")
    assert lines[1:] == ["    gives back 1 GPU: gpu1", "    embed: 2 → 1 replica, leaves gpu1"]


def test_history_says_who_decided_and_what_became_of_it(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, good=TWO)
    house.decide(43, THREE, before=TWO, good=TWO, fate="failed")
    back = replace(ONE, reason=f"rollback by ann@desk to the plan of decision 40, run {house.run}")
    house.decide(44, back, before=TWO, good=TWO, fate="underway")
    code, out, _ = partita(capsys, house, "plan", "history")
    rows = [line.split() for line in out.splitlines() if f"{house.run}/" in line]
    assert code == 0
    assert [row[0].partition("/")[2] for row in rows] == ["44", "43", "41"]
    assert "ann@desk" in rows[0]
    assert "symphony" in rows[1]
    assert "failed and undone" in " ".join(rows[1])
    assert "done, 4 commands" in " ".join(rows[2])
    assert rows[0][1] == "*"
    limited = json.loads(partita(capsys, house, "plan", "history", "--limit", "1", "--json")[1])
    assert [(e["tick"], e["by"]) for e in limited] == [(44, "ann@desk")]


def test_after_a_failure_the_plan_in_force_is_the_good_one(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, good=TWO)
    house.decide(43, THREE, before=TWO, good=TWO, fate="failed")

    async def undone(operation: Operation, _: Leadership) -> None:
        await operation.put_standing(Standing(house.run, 43, TWO, TWO))

    house.do(undone)
    assert partita(capsys, house, "plan", "show")[1].startswith(f"The plan in force (decision 41, run {house.run}): 2")
    entries = json.loads(partita(capsys, house, "plan", "history", "--json")[1])
    assert [(e["tick"], e["in_force"]) for e in entries] == [(43, False), (41, True)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "show", "last"], "'last' names no plan: give RUN/TICK, such as 3/42, or current, good or observed"),
        (["plan", "show", "3/x"], "'3/x' names no plan"),
        (["plan", "show", "999/1"], "inference has no plan 999/1: partita plan history lists those there are"),
        (["plan", "show", f"{10**25}/1"], "inference has no plan"),
        (["plan", "diff", "current", "no"], "'no' names no plan"),
        (["rollback", "999/1"], "inference has no plan 999/1"),
        (["rollback", "x"], "'x' names no plan"),
    ],
)
def test_plans_that_are_not_there(
    capsys: pytest.CaptureFixture[str], house: House, arguments: list[str], sentence: str
) -> None:
    house.decide(41, TWO)
    code, out, err = partita(capsys, house, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_plan_of_another_cluster_is_not_this_ones(capsys: pytest.CaptureFixture[str], house: House) -> None:
    other = House(house.dsn, "other")
    other.begin()
    other.decide(5, TWO)
    house.decide(41, TWO)
    code, _, err = partita(capsys, house, "rollback", f"{other.run}/5", "--name", ROLE)
    assert (code, f"inference has no plan {other.run}/5" in err) == (2, True)


# Orders -------------------------------------------------------------------------------------------------------------


def orders(dsn: str) -> list[tuple[Any, ...]]:
    async def read() -> list[tuple[Any, ...]]:
        async with connect(dsn) as connection:
            rows = await connection.fetch("SELECT kind, reason, to_run, to_tick FROM operator_order ORDER BY id")
            return [tuple(row) for row in rows]

    return asyncio.run(read())


def test_without_a_controller_the_order_is_kept(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, good=TWO)
    house.decide(42, THREE, before=TWO, good=TWO)
    code, out, err = partita(capsys, house, "pause", "--reason", "driver update")
    assert code == 1
    assert re.fullmatch(rf"Order \d+: {ROLE} is to change nothing\.\n", out)
    assert err.startswith(f"Error: no controller of {ROLE} is running; ")
    assert err.endswith("the order is kept for the next one\n")
    assert partita(capsys, house, "resume")[0] == 1
    assert partita(capsys, house, "rollback", "--no-wait")[0] == 1
    assert orders(house.dsn) == [
        ("pause", "driver update", None, None),
        ("resume", "", None, None),
        ("rollback", "", house.run, 41),
    ]


def test_going_back_skips_what_failed_and_what_is_the_same(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(40, ONE, before=TWO)
    house.decide(41, THREE, fate="failed")
    house.decide(42, TWO, before=ONE, good=TWO)
    house.decide(43, replace(TWO, reason="put right"), before=ONE, good=TWO)
    code, out, _ = partita(capsys, house, "rollback", "--reason", "slow")
    assert code == 1
    assert f"is to go back to the plan of decision 40, run {house.run}, and to pause there" in out
    assert orders(house.dsn) == [("rollback", "slow", house.run, 40)]


def test_there_may_be_nothing_to_go_back_to(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.say(status_of(house), leads=False)
    code, _, err = partita(capsys, house, "rollback")
    assert (code, err) == (1, f"Error: {ROLE} has no plan in force yet: nothing has had to be changed\n")
    house.decide(41, TWO)
    code, _, err = partita(capsys, house, "rollback")
    assert (code, err) == (1, f"Error: {ROLE} had no other plan in force before: there is nothing to go back to\n")
    assert orders(house.dsn) == []


def test_a_controller_that_does_not_listen(
    capsys: pytest.CaptureFixture[str], house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partita.controller.cli.orders.REPORTED_S", 0.5)
    house.say(status_of(house))
    code, _, err = partita(capsys, house, "pause")
    assert code == 1
    assert err.startswith("Error: not taken within 0.7 s; the order is kept: partita status says what keeps the ")
    assert partita(capsys, house, "pause", "--no-wait")[0] == 0


@pytest.mark.parametrize(
    ("plan", "code", "told"),
    [
        (
            TWO,
            0,
            "Taken: decision 43, run {run}, carries it out in 4 commands (partita plan show {run}/43 tells how far).",
        ),
        (None, 1, "Error: decision 43, run {run}, did not: it cannot be had"),
    ],
)
def test_a_rollback_is_told_by_the_decision_that_took_it(
    capsys: pytest.CaptureFixture[str], house: House, plan: Plan | None, code: int, told: str
) -> None:
    """The controller has decided again before anybody looks."""
    house.decide(41, TWO)
    house.decide(42, ONE, before=TWO)
    house.say(status_of(house), leads=False)

    def obey() -> None:
        end = time.monotonic() + 60.0
        while not (given := orders(house.dsn)) and time.monotonic() < end:
            time.sleep(0.02)
        assert given == [("rollback", "", house.run, 41)]
        house.decide(43, plan, before=ONE, fate="written", reason="it cannot be had")
        house.decide(44, None, reason="decision 43 goes on: 4 commands are left")

        async def take(operation: Operation, _: Leadership) -> None:
            _, number = await operation.read_orders()
            await operation.take_rollbacks(number, house.run, 43)

        house.do(take)

    with ThreadPoolExecutor(1) as aside:
        obeyed = aside.submit(obey)
        found, out, err = partita(capsys, house, "rollback")
        obeyed.result()
    assert found == code
    assert (out if code == 0 else err).splitlines()[-1] == told.format(run=house.run)


# partita explain ----------------------------------------------------------------------------------------------------


def test_a_live_decision_and_what_became_of_its_commands(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO, fate="failed")

    async def undo(operation: Operation, _: Leadership) -> None:
        back = [StartReplicas("gpu0", ("embed",), (Batching("eager"),), "undo")]
        await operation.add_commands(house.run, 41, back, first=4, undo=True)
        for position in range(3):
            await operation.tell(house.run, 41, position, attempt=2, event="undone", problem="its plan failed")
        await operation.tell(house.run, 41, 4, attempt=1, event="done")

    house.do(undo)
    code, out, _ = partita(capsys, house, "explain")
    assert code == 0
    assert out.startswith(f"Decision 41 of symphony (run {house.run}, live, active), at 2026-")
    assert "Weighed: nothing: this was settled before any forecast, and no plugin was asked." in out
    commanded = out.partition("Commanded:")[2].partition("Carried out:")[0]
    assert "Acquire, CreateInstance and StartReplicas gpu1; SetRoutes: 2 will do" in commanded
    assert "undo" not in commanded
    assert "Carried out: 1 failed, 3 undone, 1 of 1 that take it back done." in out
    assert "    SetRoutes routes: no answer" in out


@pytest.mark.parametrize(
    "reason",
    [
        "paused: pause by ann@desk: driver",
        "decision 41 goes on: 2 commands are left",
        "log: the database went away: the last good plan stays",
    ],
)
def test_turns_that_were_settled_before_any_forecast(
    capsys: pytest.CaptureFixture[str], house: House, reason: str
) -> None:
    house.decide(7, None, reason=reason)
    assert partita(capsys, house, "explain", "7")[1].splitlines() == [
        f"Decision 7 of symphony (run {house.run}, live, active), at {moment(AT_S + 7)}: nothing was done, 1 GPU kept.",
        f"Why: {reason}.",
        "Measured: 100.0 requests a second, 1 GPU held.",
        "Weighed: nothing: this was settled before any forecast, and no plugin was asked.",
        "Commanded: nothing.",
    ]


def test_lists_of_live_runs_show_their_mode(capsys: pytest.CaptureFixture[str], house: House) -> None:
    house.decide(41, TWO)
    other = House(house.dsn, f"{ROLE}/advisory", "host:9", "advisory")
    other.begin()
    other.decide(3, None)
    out = partita(capsys, house, "explain", "--list", "--run", str(house.run))[1]
    assert out.splitlines()[0] == (
        f"1 decision acted in run {house.run} (symphony, live, active); 0 turns held. "
        f"Other runs: {other.run} (symphony, live)."
    )
    assert "(symphony, live, advisory)" in partita(capsys, house, "explain", "--list")[1]


# A controller at work -----------------------------------------------------------------------------------------------

AT_WORK = """\
name: trial
executor: {{local: {{url: "http://127.0.0.1:{runtime}"}}}}
cluster: [{{gpu: A100-80GB, count: 3}}]
services: [{{name: embed, slo_ms: 500, attainment: 0.9, memory_gib: 2.0, latency: {{alpha_ms: 2.0, beta_ms: 20.0}}}}]
overheads: {{control_us: 3000, response_us: 5000, model_load_s: 0.2, repartition_s: 0.2}}
control: {{near_s: 1, epoch_s: 30, rehearse_s: 10}}
watch: {{listen: "127.0.0.1:{watch}"}}
"""


MAIN = "from partita.controller.cli import main; main()"


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


@contextmanager
def at_work(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run partita as a process of its own, and end it as an operator would."""
    with log.open("wb") as told:
        process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stdout=told, stderr=told)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def until(what: Callable[[], bool], log: Path, within_s: float = 60.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)


def test_a_controller_at_work_is_seen_and_obeys(
    capsys: pytest.CaptureFixture[str], pg_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where many tests share few cores a turn may be late, and so may be what is said of it.
    monkeypatch.setattr("partita.controller.cli.orders.REPORTED_S", 60.0)
    monkeypatch.setattr("partita.controller.statusview.SILENT_S", 60.0)
    ports = free_ports(2)
    file, log = tmp_path / "c.yaml", tmp_path / "run.log"
    file.write_text(AT_WORK.format(runtime=ports[0], watch=ports[1]))

    def ask(*arguments: str) -> tuple[int, str, str]:
        return partita(capsys, pg_dsn, *arguments)

    def status() -> dict[str, Any]:
        code, out, _ = ask("status", "--json")
        found: dict[str, Any] = json.loads(out) if code == 0 else {}
        return found

    def outcomes() -> list[str]:
        return [entry["outcome"] for entry in json.loads(ask("plan", "history", "--json")[1] or "[]")]

    runtime = at_work(["runtime", str(file), "--dsn", pg_dsn], tmp_path / "runtime.log")
    with runtime, at_work(["run", str(file), "--holder", "one", "--dsn", pg_dsn], log) as controller:
        # It begins with the cluster as given, three GPUs, and finds that one will do where nobody asks for anything.
        until(lambda: len(found := outcomes()) >= 2 and found[0].startswith("done"), log)
        until(lambda: (status().get("status") or {}).get("gpus_held") == 1, log)
        found = status()
        assert [(c["holder"], c["state"]) for c in found["controllers"]] == [("one", "leading")]
        run = found["status"]["run"]
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/metrics") as answer:
            assert b"partita_gpus_held 1.0" in answer.read()

        code, out, err = ask("pause", "--reason", "driver")
        assert (code, out.splitlines()[-1], err) == (0, "Taken: paused.", "")
        paused = status()["status"]["paused"]
        assert re.fullmatch(r"pause by \S+@\S+: driver", paused)
        assert ask("resume")[:2][1].splitlines()[-1] == "Taken."
        assert status()["status"]["paused"] == ""

        code, out, err = ask("rollback", f"{run}/1")
        assert (code, err) == (0, "")
        taken = re.search(rf"Taken: decision (\d+), run {run}, carries it out in \d+ commands", out)
        assert taken is not None, out
        until(lambda: (status().get("status") or {}).get("gpus_held") == 3, log)
        until(lambda: outcomes()[0].startswith("done"), log)
        assert "Carried out: " in ask("explain", taken[1])[1]
        assert "paused: rollback by " in "\n".join(status()["problems"])
        # The plan that is in force already can be asked for again, and then nothing has to be done.
        code, out, _ = ask("rollback", f"{run}/{taken[1]}")
        assert (code, "found that nothing had to be changed" in out) == (0, True)

        controller.terminate()
        assert controller.wait(60) == 0, log.read_text()[-3000:]
        assert ask("status")[0] == 1
    assert re.fullmatch(rf"Run {run}: \d+ decisions, all the same\.\n", ask("replay", "--recorded", str(run))[1])
