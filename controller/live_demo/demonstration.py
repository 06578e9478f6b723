"""The demonstration from its load to its figures: calibrate, scan, run everything, and replay what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from partita.controller.live_demo.calibration import CALIBRATION, CALIBRATION_S, calibrate
from partita.controller.live_demo.case import (
    DEFAULT,
    LOCAL_BACK_MS,
    LOCAL_LEAD_MS,
    MODELS,
    NAMES,
    NEAR_S,
    POLICY,
    Overhead,
    plan_of,
    services,
    setup,
    triton_discipline,
)
from partita.controller.live_demo.load import Load, make_load
from partita.controller.live_demo.predict import Change, replay, replay_loop
from partita.controller.live_demo.runs import Outcome, run_controlled, run_local, run_setting
from partita.controller.live_demo.scan import Candidate, foremost, scan
from partita.controller.live_demo.show import Figures, Prediction, measure
from partita.model.cluster import Batching
from partita.model.staggered import Overheads
from partita.replay.score import Score

CONTROLLER, LOCAL = "Triton, set by partita run", "Partita's own runtime"
LOOP, AS_SET = "the whole loop in replay", "replay of the settings as they were set"
NOISE, CLEARLY = 0.03, 1.2
"""Share of the goodput by which runs of one setting may differ; and how many times the default's is clearly above."""

Say = Callable[[str], None]
Report = Callable[[float, float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One run: its figures, and what replay gave, by what was replayed (empty: the setting of the run)."""

    name: str
    outcome: Outcome
    figures: Figures
    predictions: dict[str, Prediction]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """All runs in order, what the machine adds, and how many settings were scanned."""

    load: Load
    overhead: Overhead
    scanned: int
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """Return the run of a name."""
        return next(row for row in self.rows if row.name == name)

    def best_static(self) -> Row:
        """Return the static setting that was measured best."""
        others = (CONTROLLER, LOCAL, DEFAULT.name)
        return max((r for r in self.rows if r.name not in others), key=lambda r: r.figures.goodput_rps)


def demonstrate(
    load: Load, *, statics: int, say: Say, watch: Callable[[str], Report], scratch: Path | None = None
) -> Result:
    """Run everything, one after the other; scratch folders and all processes are gone when this returns."""
    with _folder(scratch) as folder:
        return _Stage(load, Path(folder), say, watch).play(statics)


def _folder(given: Path | None) -> AbstractContextManager[str]:
    return TemporaryDirectory(prefix="partita-live-", dir=given, ignore_cleanup_errors=True)


class _Stage:
    """Everything that the runs share."""

    def __init__(self, load: Load, folder: Path, say: Say, watch: Callable[[str], Report]) -> None:
        self._load, self._folder, self._say, self._watch = load, folder, say, watch

    def play(self, statics: int) -> Result:
        overhead = self._calibrate()
        found = scan(self._load, overhead, told=self._watch("scan of static settings, in replay"))
        best = foremost(found, statics)
        self._say(_describe_scan(found, best))
        rows = [self._static(DEFAULT.name, Candidate(DEFAULT, found[0].score), overhead)]
        rows += [self._static(c.setting.name, c, overhead) for c in best]
        rows.append(self._controlled(overhead))
        rows.append(self._local())
        return Result(self._load, overhead, len(found), tuple(rows))

    def _calibrate(self) -> Overhead:
        short = make_load(NAMES, CALIBRATION, span_s=CALIBRATION_S, seed=1)
        outcome = run_setting(DEFAULT, short, self._own("calibration"), self._watch("calibration"))
        overhead = calibrate(outcome.played)
        self._say(
            f"Measured on this machine: {overhead.lead_ms:g} ms from a request to its batch, {overhead.held_ms:g} ms a "
            f"batch beyond its time, {overhead.turnaround_ms:g} ms until the same model takes the next, "
            f"{overhead.back_ms:g} ms back to the client. Replay counts with these."
        )
        return overhead

    def _static(self, name: str, candidate: Candidate, overhead: Overhead) -> Row:
        outcome = run_setting(candidate.setting, self._load, self._own("static"), self._watch(name))
        score, _ = self._replayed(outcome, overhead)
        figures = measure(outcome.played)
        return Row(name, outcome, figures, {"": Prediction.of(score, figures)})

    def _controlled(self, overhead: Overhead) -> Row:
        document, folder = setup(overhead, triton_discipline(overhead)), self._own("controlled")
        outcome = run_controlled(document, self._load, folder, self._watch(CONTROLLER))
        figures = measure(outcome.played)
        loop = replay_loop(
            outcome.played.as_sent(), document, POLICY, folder, after_s=max(0.0, NEAR_S - outcome.first_turn_s)
        )
        as_set, _ = self._replayed(outcome, overhead)
        predictions = {LOOP: Prediction.of(loop.score, figures), AS_SET: Prediction.of(as_set, figures)}
        return Row(CONTROLLER, outcome, figures, predictions)

    def _local(self) -> Row:
        overhead = Overhead(LOCAL_LEAD_MS, 0.0, 0.0, LOCAL_BACK_MS)
        batching = self._better_drop(overhead)
        document = setup(overhead, {"name": batching.discipline})
        outcome = run_local(document, batching, self._load, self._own("local"), self._watch(LOCAL))
        figures = measure(outcome.played)
        score, _ = self._replayed(outcome, overhead, jitter_s=0.001)
        return Row(LOCAL, outcome, figures, {"": Prediction.of(score, figures)})

    def _better_drop(self, overhead: Overhead) -> Batching:
        """Return deferred batching with the rule for dropping that replay finds better on this load."""
        known, overheads = services(overhead), Overheads(overhead.lead_ms / 1e3, 0.0, 0.0, 0.001)
        ways = [Batching("deferred", options=(("drop", drop),)) for drop in ("window", "timeout")]

        def good(batching: Batching) -> int:
            score, _ = replay(self._load, [Change(0.0, plan_of((batching,) * len(MODELS)))], known, overheads)
            return score.good

        return max(ways, key=good)

    def _replayed(self, outcome: Outcome, overhead: Overhead, *, jitter_s: float = 0.0) -> tuple[Score, object]:
        """Replay what was sent under the settings that were in force."""
        overheads = Overheads(overhead.lead_ms / 1e3, jitter_s=jitter_s)
        changes = [replace(change, at_s=max(0.0, change.at_s)) for change in _since_begin(outcome.changes)]
        return replay(outcome.played.as_sent(), changes, services(overhead), overheads)

    def _own(self, name: str) -> Path:
        """Make a folder for one run."""
        folder = self._folder / f"{len(list(self._folder.iterdir()))}-{name}"
        folder.mkdir()
        return folder


def _since_begin(changes: Sequence[Change]) -> list[Change]:
    """Leave out what was replaced before the load began."""
    before = [n for n, change in enumerate(changes) if change.at_s <= 0.0]
    return list(changes[max(before, default=0) :])


def _describe_scan(found: Sequence[Candidate], best: Sequence[Candidate]) -> str:
    shown = "; ".join(f"{c.setting.name} ({c.score.attainment * 100:.1f} %)" for c in best)
    return f"Of {len(found)} static settings replayed with this load known in advance, the best are measured: {shown}."


def claims(result: Result) -> list[tuple[bool, str]]:
    """Say of each claim whether it holds, in words with the figures."""
    default, best = result.row(DEFAULT.name).figures, result.best_static()
    controlled, local = result.row(CONTROLLER).figures, result.row(LOCAL).figures
    above = controlled.goodput_rps / max(default.goodput_rps, 1e-9)
    beside = controlled.goodput_rps / max(best.figures.goodput_rps, 1e-9)
    compared = [(row, what, p) for row in result.rows for what, p in row.predictions.items()]
    missed = [(row, what, p) for row, what, p in compared if not p.holds()]
    return [
        (
            above >= CLEARLY and beside >= 1 - NOISE,
            f"the controller's goodput is {above:.1f} times that of Triton as it comes and {(beside - 1) * 100:+.1f} % "
            f"beside the best static setting ({best.name}), noise being ±{NOISE * 100:g} %",
        ),
        (
            local.goodput_rps >= CLEARLY * default.goodput_rps,
            f"deferred batching in Partita's own runtime answers {local.attainment * 100:.1f} % in time, in batches of "
            f"{local.mean_batch:.1f}; Triton's timeouts {default.attainment * 100:.1f} % as they come and "
            f"{best.figures.attainment * 100:.1f} % at their best, in batches of {best.figures.mean_batch:.1f}",
        ),
        (
            not missed,
            f"replay is within 3 points of attainment and 10 % of the mean batch in {len(compared) - len(missed)} of "
            f"{len(compared)} comparisons{''.join(_account(*miss) for miss in missed)}",
        ),
    ]


def _account(row: Row, what: str, missed: Prediction) -> str:
    """Say how far off a prediction is, and whether the server's model is to blame or what was decided."""
    text = f"; {row.name}{f' ({what})' if what else ''} is off by {missed.off_points:+.1f} points and "
    text += f"{missed.off_batch * 100:+.0f} % of the batch"
    if what == LOOP and row.predictions[AS_SET].holds():
        text += (
            ", because the controller in replay chose other settings among those that meet the targets: "
            "given those that were set, replay is right"
        )
    return text
