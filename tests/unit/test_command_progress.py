"""How far a start has got, where some of its services are there already and batch otherwise."""

import pytest

from partita.controller.commands import Progress, progress
from partita.model.cluster import Batching, ClusterState, Instance, InstanceState, Status
from partita.model.plan import StartReplicas

WHOLE = Instance("gpu0", "gpu0", 80.0)
WANTED, FILED = Batching("timeout", 0.002, 4), Batching("timeout", 0.02)
START = StartReplicas("gpu0", ("a", "b"), (WANTED, WANTED), "why")


@pytest.mark.parametrize(
    ("loaded", "loading", "batching", "expected"),
    [
        ((), (), {}, Progress.ABSENT),
        (("a",), (), {"a": WANTED}, Progress.ABSENT),
        (("a",), ("b",), {"a": WANTED}, Progress.UNDERWAY),
        # A server loads as its file says first: what is there so far says nothing of what still loads.
        (("a",), ("b",), {"a": FILED}, Progress.UNDERWAY),
        (("a", "b"), (), {"a": WANTED, "b": FILED}, Progress.ABSENT),
        (("a", "b"), (), {"a": WANTED, "b": WANTED}, Progress.DONE),
        (("a", "b"), (), {}, Progress.DONE),  # batching that is not known is not held against it
    ],
)
def test_a_start_is_under_way_until_all_is_loaded_and_done_once_it_batches_as_wanted(
    loaded: tuple[str, ...], loading: tuple[str, ...], batching: dict[str, Batching], expected: Progress
) -> None:
    status = Status.LOADING if loading else Status.READY
    state = InstanceState(WHOLE, status, loaded, loading, batching=batching)
    assert progress(START, ClusterState(("gpu0",), (state,))) is expected
