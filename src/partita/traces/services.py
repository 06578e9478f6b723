"""Which service of the run each service of a trace stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError

KEEP = "*"
"""As a target: the trace's own name."""


def by_detail(patterns: Iterable[str]) -> list[str]:
    """Order patterns so that those that say most come first: most literal characters, then by name.

    The order they were written in must not count: a mapping is sorted wherever it is stored as JSON.
    """
    return sorted(patterns, key=lambda pattern: (-sum(c not in "*?" for c in pattern), pattern))


class ServiceMap:
    """Names or patterns (as in a shell) of a trace's services -> service names.

    A trace's very name counts first, then, of the patterns that match it, the one that says most. The target "*" keeps
    the trace's name, None leaves the service out. `services` are the names to map to, in the order of their indices;
    without them, names are added as they appear. What matches nothing, or is mapped to a name that is not among
    `services`, has index -1 and is left out.
    """

    def __init__(self, rules: Mapping[str, str | None] | None = None, services: Sequence[str] | None = None) -> None:
        self._rules = dict(rules) if rules is not None else {"*": KEEP}
        self._fixed = services is not None
        self._index = {name: at for at, name in enumerate(services or ())}
        self._found: dict[str, int] = {}
        for target in self._rules.values():
            if self._fixed and target not in (None, KEEP) and target not in self._index:
                known = ", ".join(self._index)
                raise ConfigError(
                    f"the trace is mapped to an unknown service (known: {known})", key="services", value=target
                )

    @property
    def services(self) -> tuple[str, ...]:
        """Names by index."""
        return tuple(self._index)

    def fixed(self, services: Sequence[str] | None = None) -> ServiceMap:
        """Return a map with the same rules, to no more than these names (by default those found so far)."""
        names = self.services if services is None else services
        found = {pattern: t if t in (None, KEEP) or t in names else None for pattern, t in self._rules.items()}
        return ServiceMap(found, names)

    def target(self, name: str) -> str | None:
        """Return the service that a trace's service stands for, None if it is left out."""
        index = self.index(name)
        return None if index < 0 else self.services[index]

    def index(self, name: str) -> int:
        """Return the index of the service that a trace's service stands for, -1 if it is left out."""
        if name not in self._found:
            self._found[name] = self._look_up(name)
        return self._found[name]

    def indices(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """Return the index of each of many names."""
        if names.size and (names == names[0]).all():
            return np.full(names.size, self.index(names[0]), np.int64)
        for name in dict.fromkeys(names.tolist()):
            self.index(name)
        return np.fromiter(map(self._found.__getitem__, names.tolist()), np.int64, names.size)

    def _look_up(self, name: str) -> int:
        if name in self._rules:
            target = self._rules[name]
        else:
            matching = (self._rules[pattern] for pattern in by_detail(self._rules) if fnmatchcase(name, pattern))
            target = next(matching, None)
        if target is None:
            return -1
        target = name if target == KEEP else target
        if not self._fixed:
            return self._index.setdefault(target, len(self._index))
        return self._index.get(target, -1)
