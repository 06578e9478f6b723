"""The report of a replay: scores, how each run went, who ran on which GPU, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from partita.controller.comparison import Shown
from partita.controller.report.frame import beside, dot, figure_card, folded, legend, page, run_again
from partita.controller.results import FIXED, write_whole
from partita.controller.scoretable import cells, columns, misses, targets_of, verdict
from partita.controller.wording import because, moment, span
from partita.model.occupancy import Occupancy
from partita.plots import (
    attainment_figure,
    batch_figure,
    batches_figure,
    course_figure,
    occupancy_figure,
    service_colours,
    service_legend,
    slower_figure,
)
from partita.replay.score import class_edges_ms

MOST_DEADLINES = 12
MOST_SERVICES = 60
MOST_DECISIONS = 500


def write_report(
    path: Path, result: Mapping[str, Any], shown: Mapping[str, Shown], *, title: str, command: str | None = None
) -> None:
    """Write the report of a result and what is to be shown of its runs, whole or not at all."""
    write_whole(path, report_text(result, shown, title=title, command=command))


def report_text(
    result: Mapping[str, Any], shown: Mapping[str, Shown], *, title: str, command: str | None = None
) -> str:
    """Return the report as HTML; `command` is the command line that gives it again."""
    return page(title, _parts(result, shown, title, command))


def _parts(result: Mapping[str, Any], shown: Mapping[str, Shown], title: str, command: str | None) -> Iterator[str]:
    scores = result["scores"]
    targets = targets_of(scores, result["scenario"])
    yield f'<h1>{escape(title)}</h1><p class="lead">{escape(verdict(scores, targets))}</p>'
    yield f'<p class="soft">{escape(_describe(result))}</p>'
    yield f'<p class="soft">{escape(_deadlines(result["scenario"]))}</p>'
    failed = misses(scores, targets)
    yield "".join(f'<p class="missed">{escape(sentence)}.</p>' for sentence in failed.values())
    yield f'<h2>Scores</h2><div class="card scroll">{_score_table(scores, failed)}</div>{_notes(scores)}'
    yield "<h2>Load, GPUs and answers over time</h2>"
    decided = {name: made for name, made in result["decisions"].items() if name != FIXED}
    if decided:
        yield '<p class="soft">Dotted: the forecast. Points: decisions that changed the plan; hover or tap for why.</p>'
    yield figure_card(course_figure({name: run.course for name, run in shown.items()}), "course", zooms=True)
    yield "".join(_decisions(name, made) for name, made in decided.items())
    yield f"<h2>Attainment by service</h2>{_left_out(scores)}"
    reached = {policy: _known(record["attainment_by_service"]) for policy, record in scores.items()}
    yield figure_card(attainment_figure(reached, targets, limit=MOST_SERVICES), "services")
    yield "<h2>Time to answer, time in the queue, batch sizes</h2>"
    yield _spreads(result, shown)
    yield from _gpus(shown)
    yield f"<h2>Run it again</h2>{run_again(command, [result['seed']], result['versions'])}"
    yield folded("The scenario, every default filled in", result["scenario"])
    yield folded("Wall-clock figures", result["timing"])


def _spreads(result: Mapping[str, Any], shown: Mapping[str, Shown]) -> str:
    scores, edges = result["scores"], class_edges_ms()
    slo_ms = sorted({float(entry["slo_ms"]) for entry in result["scenario"]["services"]})
    answer = slower_figure(
        {name: run.histograms.latency for name, run in shown.items()},
        edges,
        {name: record["latency_ms"] for name, record in scores.items()},
        what="time to answer",
        slo_ms=slo_ms,
    )
    queue = slower_figure(
        {name: run.histograms.queueing for name, run in shown.items()},
        edges,
        {name: record["queue_ms"] for name, record in scores.items()},
        what="time in the queue",
    )
    sizes = batch_figure({name: run.histograms.batch_size for name, run in shown.items()})
    return beside(figure_card(answer, "latency"), figure_card(queue, "queue"), figure_card(sizes, "batches"))


def _gpus(shown: Mapping[str, Shown]) -> Iterator[str]:
    """Show who ran on which GPU, run by run."""
    recorded = {name: run.occupancy for name, run in shown.items() if run.occupancy is not None}
    if not recorded:
        return
    colours = service_colours(list(recorded.values()))
    yield "<h2>Who ran on which GPU</h2>"
    yield (
        '<p class="soft">Above, how many instances each service kept at work; dotted, how many were ready. Below, a '
        "row for each GPU: a cell has the colour of the service with more than half of its time at work, the fuller "
        f"the busier it was, and is blank where no instance was ready.{_struck(recorded.values())} Hover or tap for "
        "its services; drag to zoom, double-click to go back.</p>"
    )
    for number, (name, occupancy) in enumerate(recorded.items()):
        yield f"<h3>{dot(list(shown).index(name))}{escape(name)}, by {span(occupancy.width_s)}</h3>"
        meaning, single = (legend(service_legend(occupancy, colours, mixed=mixed)) for mixed in (True, False))
        yield figure_card(occupancy_figure(occupancy, colours), f"gpus{number}", zooms=True, above=meaning)
        if len(occupancy.batches.row):
            begin, end = occupancy.batches.span_s
            count, rows = len(occupancy.batches.row), len(occupancy.batches.rows)
            gpus = "one instance" if rows == 1 else f"the first {rows} instances"
            yield (
                f'<p class="soft">The {count:,} batches that ran on {gpus} within {span(max(end - begin, 1e-3))} from '
                f"{moment(begin)}, where the busiest interval begins:</p>"
            )
            yield figure_card(batches_figure(occupancy, colours), f"single{number}", zooms=True, above=single)


def _struck(occupancies: Iterable[Occupancy]) -> str:
    failed = any(occupancy.outages for occupancy in occupancies)
    return " Struck out in red: from a failure until what it took could begin to come back." if failed else ""


def _left_out(scores: Mapping[str, Any]) -> str:
    services = len({service for record in scores.values() for service in record["attainment_by_service"]})
    text = f"The {MOST_SERVICES} that fared worst, of {services}." if services > MOST_SERVICES else ""
    return f'<p class="soft">{text}</p>' if text else ""


def _describe(result: Mapping[str, Any]) -> str:
    scenario = result["scenario"]
    first = next(iter(result["scores"].values()))
    gpus = ", ".join(map(_gpus_of, scenario["cluster"]))
    load = scenario["load"]
    source = (
        load["trace"]["file"] if load.get("trace") else "drawn arrivals" if load.get("arrivals") else "the request log"
    )
    played_s, speed = first["duration_s"], (load.get("trace") or load.get("log") or {}).get("speed", 1.0)
    length = span(played_s) if speed == 1.0 else f"{span(played_s * speed)}, played in {span(played_s)} ({speed:g} ×)"
    services = len(first["attainment_by_service"])
    plural = "service" if services == 1 else "services"
    return f"{first['offered']:,} requests of {services} {plural} over {length}, from {source}; up to {gpus}."


def _gpus_of(entry: Mapping[str, Any]) -> str:
    cut = f" ({entry['geometry']})" if entry.get("geometry") else ""
    return f"{entry['count']} × {entry['gpu']}{cut}"


def _deadlines(scenario: Mapping[str, Any]) -> str:
    """Say within which time each service must answer, and how often."""
    entries = scenario["services"]
    told = (f"{e['name']} {span(e['slo_ms'] / 1e3)} ({e['attainment'] * 100:g} %)" for e in entries[:MOST_DEADLINES])
    more = f" and {len(entries) - MOST_DEADLINES} more" if len(entries) > MOST_DEADLINES else ""
    return f"SLO, and the share of requests that must keep it: {', '.join(told)}{more}."


def _score_table(scores: Mapping[str, Any], failed: Mapping[str, str]) -> str:
    heads = "".join(
        f'<th title="{escape(c.meaning)}">{escape(c.heading)}<br>{escape(c.unit)}</th>' for c in columns(scores)
    )
    rows = "".join(
        f"<tr><td>{dot(number)}{_name(name, failed)}</td>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"
        for number, (name, texts) in enumerate(cells(scores))
    )
    return f"<table><thead><tr><th>policy</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _name(name: str, failed: Mapping[str, str]) -> str:
    if name not in failed:
        return escape(name)
    return f'<span class="missed" title="{escape(failed[name])}">{escape(name)} *</span>'


def _notes(scores: Mapping[str, Any]) -> str:
    parts = [
        f"{escape(name)}: {r['late']:,} late, {r['dropped']:,} dropped{_by_failures(r)}, "
        f"worst service {escape(str(r['worst_service']))}"
        for name, r in scores.items()
    ]
    return f'<p class="soft">{"; ".join(parts)}.</p>'


def _by_failures(record: Mapping[str, Any]) -> str:
    lost = record.get("lost", 0)
    return f" ({lost:,} of them lost to failures while they ran)" if lost else ""


def _changes(number: int) -> str:
    return f"{number:,} decision{'s' * (number != 1)} that changed the plan"


def _known(shares: Mapping[str, float | str]) -> dict[str, float]:
    return {service: share for service, share in shares.items() if isinstance(share, float)}


def _decisions(policy: str, made: list[Mapping[str, Any]], limit: int = MOST_DECISIONS) -> str:
    acted = [d for d in made if d["action"] == "act"]
    rows = "".join(
        f"<tr><td>{d['tick']}</td><td>{moment(d['at_s'])}</td><td>{d['gpus_held']} → {d['gpus_wanted']}</td>"
        f'<td class="text">{escape(because(d))}</td></tr>'
        for d in acted[:limit]
    )
    more = f'<p class="soft">The first {limit} of {len(acted)}.</p>' if len(acted) > limit else ""
    head = "<thead><tr><th>turn</th><th>at</th><th>GPUs</th><th class='text'>chosen, and why</th></tr></thead>"
    table = f'<div class="card scroll long"><table>{head}<tbody>{rows}</tbody></table></div>{more}' if acted else ""
    return f"<details><summary>{escape(policy)}: {_changes(len(acted))}</summary>{table}</details>"
