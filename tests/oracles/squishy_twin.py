"""Squishy packing and the epochs of Nexus in plain Python, written from docs/disciplines.md.

It shares nothing with `partita.replay.disciplines.squishy`; only sums of rates are taken in the same order, so that a
comparison of two of them comes out alike.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from oracles.lanes_twin import most, plans_ns

from partita.ports import Pool

SECOND = 1_000_000_000


@dataclass
class Host:
    """One instance: whom it serves at which rate, the batches, the duty cycle and how much of it batches take."""

    load: dict[int, float] = field(default_factory=dict)
    batch: dict[int, int] = field(default_factory=dict)
    duty: float = 1.0
    busy: float = 0.0

    def gives(self, s: int) -> float:
        """Return the throughput of a service here."""
        return self.batch[s] / self.duty if s in self.batch else 0.0


class Site:
    """What instances of a pool can do; times in seconds."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.place = {int(n): g for g, n in enumerate(pool.number)}
        self.services = [int(s) for s in pool.active]
        net_ms = float(pool.parameters_of(self.services[0]).get("net_ms", 2.0))
        self.net_ns = net_ms / 1e3 * 1e9

    def able(self, s: int) -> list[int]:
        """Return the instances that may run a service."""
        return [n for n, g in self.place.items() if most(self.pool, g, s) > 0]

    def takes(self, n: int, s: int, b: int) -> float:
        """Return how long a batch takes."""
        return plans_ns(self.pool, self.place[n], s)(b) / 1e9

    def top(self, n: int, s: int) -> int:
        """Return the largest batch that is planned."""
        half = (int(self.pool.slo_ns[s]) - self.net_ns) / 2
        plan = plans_ns(self.pool, self.place[n], s)
        sizes = range(1, most(self.pool, self.place[n], s) + 1)
        return max([b for b in sizes if plan(b) <= half], default=min(1, len(sizes)))

    def whole(self, n: int, members: list[int]) -> Host:
        """Return an instance that runs its members' largest batches in turn."""
        batch = {s: self.top(n, s) for s in members}
        busy = sum(self.takes(n, s, b) for s, b in batch.items())
        return Host({s: b / busy for s, b in batch.items()}, batch, busy, busy)

    def limit(self, n: int, s: int) -> float:
        """Return the most that an instance can do for a service."""
        return self.top(n, s) / self.takes(n, s, self.top(n, s))

    def host(self, n: int, load: dict[int, float]) -> Host | None:
        """Return an instance with these loads; None if they do not go together."""
        if not load:
            return Host()
        if len(load) == 1 and next(iter(load.values())) >= self.limit(n, next(iter(load))) * (1 - 1e-9):
            return self.whole(n, list(load))
        duties = []
        for s, rate in load.items():
            slo = int(self.pool.slo_ns[s]) / 1e9
            good = [b for b in range(1, self.top(n, s) + 1) if b == 1 or (b - 1) / rate + self.takes(n, s, b) <= slo]
            b = next(b for b in good if b + 1 not in good)
            duties.append(min(slo - self.takes(n, s, b), b / rate))
        duty = min(duties)
        if duty <= 0:
            return None
        batch = {s: max(1, math.ceil(duty * rate - 1e-3)) for s, rate in load.items()}
        busy = sum(self.takes(n, s, b) for s, b in batch.items() if b <= self.top(n, s))
        if busy > duty or any(b > self.top(n, s) for s, b in batch.items()):
            return None
        return Host(dict(load), batch, duty, busy)


@dataclass
class Planner:
    """The scheduler: hosts by number, what it has counted, and when it planned last."""

    hosts: dict[int, Host] = field(default_factory=dict)
    began_ns: int | None = None
    counted: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    beacons: int = 0
    planned_ns: int | None = None

    def total(self, s: int) -> float:
        """Return a service's throughput."""
        return sum(self.hosts[n].gives(s) for n in sorted(self.hosts))

    def next_beacon_ns(self) -> int | None:
        """Return when rates are looked at next."""
        return None if self.began_ns is None else self.began_ns + (self.beacons + 1) * SECOND

    def meet(self, site: Site, raised: float, now_ns: int) -> None:
        """Make do with the instances and services that there are."""
        if not self.hosts:
            members: dict[int, list[int]] = {n: [] for n in site.place}
            for s in site.services:
                if site.able(s):
                    fewest = min(len(members[n]) for n in site.able(s))
                    members[next(n for n in site.able(s) if len(members[n]) == fewest)].append(s)
            self.hosts = {n: site.whole(n, own) if own else Host() for n, own in members.items()}
            return
        before = {s: self.total(s) for s in site.services}
        old, self.hosts = self.hosts, {}
        for n in site.place:
            host = old.get(n, Host())
            left = {s: rate for s, rate in host.load.items() if s in site.services and n in site.able(s)}
            same = left == host.load and all(host.batch[s] <= site.top(n, s) for s in left)
            self.hosts[n] = host if same else site.host(n, left) or Host()
        short = [s for s in site.services if self.total(s) < before[s]]
        for s in site.services:
            unused = [n for n in site.able(s) if not self.hosts[n].batch]
            if unused and not any(s in host.batch for host in self.hosts.values()):
                self.hosts[unused[0]] = site.whole(unused[0], [s])
        self.house(site)
        if short and self.beacons >= 30:
            self.follow(site, {s: rate * raised for s, rate in self.rates.items()})
            self.planned_ns = now_ns

    def beacon(self, site: Site, services: int, raised: float, now_ns: int) -> None:
        """Look at the rates."""
        weight = 1 - math.exp(-0.1)
        for s in range(services):
            count = float(self.counted.get(s, 0))
            self.rates[s] = count if self.beacons == 0 else (1 - weight) * self.rates[s] + weight * count
        self.counted, self.beacons = {}, self.beacons + 1
        rates = {s: rate * raised for s, rate in self.rates.items()}
        if self.beacons < 30:
            return
        if self.planned_ns is not None and now_ns - self.planned_ns < 30 * SECOND:
            off = [s for s in site.services if not 0.8 * self.total(s) <= rates[s] <= 1.1 * self.total(s)]
            if now_ns - self.planned_ns < 10 * SECOND or not off:
                return
        if self.planned_ns is None and any(len(host.batch) > 1 for host in self.hosts.values()):
            self.hosts = {n: Host() for n in site.place}
            rest = {s: self.fill(site, s, rates[s]) for s in site.services}

            def share(s: int) -> float:
                alone = site.host(site.able(s)[0], {s: rest[s]}) if site.able(s) and rest[s] > 1e-6 else None
                return alone.busy / alone.duty if alone else 0.0

            for s in sorted(site.services, key=lambda s: (-share(s), s)):
                self.place(site, s, rest[s])
            self.house(site)
        else:
            self.follow(site, rates)
        self.planned_ns = now_ns

    def follow(self, site: Site, rates: dict[int, float]) -> None:
        """Shrink who has too much, then let grow who has too little."""
        for s in site.services:
            if rates[s] < 0.97 * self.total(s):
                hosts = [n for n in self.hosts if s in self.hosts[n].batch]
                queue = deque(sorted(hosts, key=lambda n: (self.hosts[n].gives(s), -n)))
                left = 0.0
                while queue and left <= 1e-6:
                    n = queue.popleft()
                    left = max(0.0, rates[s] - (self.total(s) - self.hosts[n].gives(s)))
                    load = {x: left if x == s else rate for x, rate in self.hosts[n].load.items()}
                    host = site.host(n, {x: rate for x, rate in load.items() if x != s or left > 1e-6})
                    self.hosts[n] = host or self.hosts[n]
        for s in site.services:
            rest = rates[s] - self.total(s)
            if rest <= 1e-6:
                continue
            for n in sorted(self.hosts):
                had = self.hosts[n].gives(s)
                if had and rest > 1e-6:
                    host = site.host(n, {**self.hosts[n].load, s: had + rest})
                    if host and host.gives(s) > had:
                        self.hosts[n] = host
                        rest -= host.gives(s) - had
            self.place(site, s, max(0.0, rest))
        self.house(site)

    def fill(self, site: Site, s: int, rate: float) -> float:
        """Use up whole instances; return the rate that is left."""
        for n in [n for n in site.able(s) if not self.hosts[n].batch]:
            if rate < site.limit(n, s):
                return rate
            self.hosts[n] = site.whole(n, [s])
            rate -= self.hosts[n].gives(s)
        return rate

    def place(self, site: Site, s: int, rate: float) -> None:
        """Find room for a load: the fullest instance that carries all of it."""
        rate = self.fill(site, s, rate)
        if rate <= 1e-6:
            return
        room = {}
        for n in site.able(s):
            if s not in self.hosts[n].batch and (host := site.host(n, {**self.hosts[n].load, s: rate})):
                room[n] = host
        if room:
            best = max(host.busy / host.duty for host in room.values())
            n = next(n for n, host in room.items() if host.busy / host.duty == best)
            self.hosts[n] = room[n]

    def house(self, site: Site) -> None:
        """Nobody goes without."""
        for s in site.services:
            if not site.able(s) or any(s in host.batch for host in self.hosts.values()):
                continue
            n = min(site.able(s), key=lambda n: (self.hosts[n].busy / self.hosts[n].duty, n))
            host, runs = self.hosts[n], site.takes(n, s, 1)
            duty = max(host.duty, host.busy + runs) if host.batch else runs
            self.hosts[n] = Host({**host.load, s: 1 / duty}, {**host.batch, s: 1}, duty, host.busy + runs)
