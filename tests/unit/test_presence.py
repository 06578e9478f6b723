"""Services that appear and vanish during a replay."""

from __future__ import annotations

import numpy as np
from miniature import SECOND, Listed, even

from partita.replay.presence import PresentOnly


def test_requests_come_only_while_their_service_is_there() -> None:
    source = Listed(("a", "b", "c"), [even(10, 6.0)] * 3, 6 * SECOND)
    shown = PresentOnly(source, ((0.0, np.inf), (1.0, 4.0), (5.0, np.inf)))
    assert (shown.services, shown.span_ns, shown.origin_ns) == (("a", "b", "c"), 6 * SECOND, 0)
    counts = [np.diff(shown.until(second * SECOND).offsets).tolist() for second in range(1, 7)]
    assert np.array(counts).T.tolist() == [[10] * 6, [0, 10, 10, 10, 0, 0], [0, 0, 0, 0, 0, 10]]


def test_the_first_instant_belongs_to_it_and_the_last_does_not() -> None:
    instants = [np.array([0, SECOND - 1, SECOND, 2 * SECOND - 1, 2 * SECOND])]
    shown = PresentOnly(Listed(("a",), instants, 3 * SECOND), ((1.0, 2.0),)).until(3 * SECOND)
    assert shown.ns.tolist() == [SECOND, 2 * SECOND - 1]
    assert shown.size.tolist() == [2, 3]
    assert shown.offsets.tolist() == [0, 2]
