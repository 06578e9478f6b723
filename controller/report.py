"""The report: one HTML file that shows a result anywhere, without a network.

Everything it needs is inside, plotly's code included, and its content security policy forbids loading anything else.
Whatever comes from outside (names, reasons, file names) is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from partita.controller.results import write_whole
from partita.controller.scoretable import COLUMNS, cells, misses, targets_of, verdict
from partita.controller.wording import because, moment, span
from partita.plots import Course, attainment_figure, colour, course_figure, latency_figure

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #23272e; --soft: #626a75; --line: #e2e4e8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --card: #1c2026; --ink: #e4e6ea; --soft: #98a1ad; --line: #313740; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .lead { font-size: 1.1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .86rem; }
th, td { padding: .35rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
thead th { font-weight: 600; color: var(--soft); line-height: 1.2; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
th.text, td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; width: 99%; }
.missed { color: #d1495b; }
@media (max-width: 40rem) {
  main { padding: 1rem .6rem 3rem; } .card { padding: .4rem; } th, td { padding: .3rem; }
}
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.45; }
.js-plotly-plot [class$="tick"] text, .js-plotly-plot .legendtext, .js-plotly-plot text[class$="title"] {
  fill: var(--soft) !important; }
"""

MOST_DEADLINES = 12


def write_report(path: Path, result: Mapping[str, Any], courses: Mapping[str, Course], *, title: str) -> None:
    """Write the report of a result and the courses of its runs, whole or not at all."""
    write_whole(path, report_text(result, courses, title=title))


def report_text(result: Mapping[str, Any], courses: Mapping[str, Course], *, title: str) -> str:
    """Return the report as HTML."""
    return "\n".join(_page(result, courses, title))


def _page(result: Mapping[str, Any], courses: Mapping[str, Course], title: str) -> Iterator[str]:
    scores = result["scores"]
    targets = targets_of(scores, result["scenario"])
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Partita</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>'
    yield f"<script>{get_plotlyjs()}</script></head><body><main>"
    yield f'<h1>{escape(title)}</h1><p class="lead">{escape(verdict(scores, targets))}</p>'
    yield f'<p class="soft">{escape(_describe(result))}</p>'
    yield f'<p class="soft">{escape(_deadlines(result["scenario"]))}</p>'
    failed = misses(scores, targets)
    yield "".join(f'<p class="missed">{escape(sentence)}.</p>' for sentence in failed.values())
    yield f'<h2>Scores</h2><div class="card scroll">{_score_table(scores, failed)}</div>{_notes(scores)}'
    yield "<h2>Load, GPUs and answers over time</h2>"
    yield '<p class="soft">Dotted: the forecast. Points: decisions that changed the plan; hover for the reason.</p>'
    yield _figure(course_figure(courses), "course")
    yield "<h2>Attainment by service</h2>"
    yield _figure(
        attainment_figure({p: _known(r["attainment_by_service"]) for p, r in scores.items()}, targets), "services"
    )
    yield '<h2>Time to answer</h2><p class="soft">Filled: until the answer. Hollow: waiting in the queue.</p>'
    latency, queue = ({policy: r[key] for policy, r in scores.items()} for key in ("latency_ms", "queue_ms"))
    yield _figure(latency_figure(latency, queue), "latency")
    yield f"<h2>Decisions</h2>{''.join(_decisions(name, made) for name, made in result['decisions'].items())}"
    yield "<h2>What was run</h2>"
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    yield f'<p class="soft">Seed {result["seed"]}; {escape(versions)}.</p>'
    yield f"<details><summary>The scenario, every default filled in</summary>{_code(result['scenario'])}</details>"
    yield f"<details><summary>Wall-clock figures</summary>{_code(result['timing'])}</details>"
    yield "</main></body></html>\n"


def _describe(result: Mapping[str, Any]) -> str:
    scenario = result["scenario"]
    first = next(iter(result["scores"].values()))
    gpus = ", ".join(f"{entry['count']} × {entry['gpu']}" for entry in scenario["cluster"])
    load = scenario["load"]
    source = (
        load["trace"]["file"] if load.get("trace") else "drawn arrivals" if load.get("arrivals") else "the request log"
    )
    played_s, speed = first["duration_s"], (load.get("trace") or load.get("log") or {}).get("speed", 1.0)
    length = span(played_s) if speed == 1.0 else f"{span(played_s * speed)}, played in {span(played_s)} ({speed:g} ×)"
    services = len(first["attainment_by_service"])
    plural = "service" if services == 1 else "services"
    return f"{first['offered']:,} requests of {services} {plural} over {length}, from {source}; up to {gpus}."


def _deadlines(scenario: Mapping[str, Any]) -> str:
    """Say within which time each service must answer, and how often."""
    entries = scenario["services"]
    told = (f"{e['name']} {span(e['slo_ms'] / 1e3)} ({e['attainment'] * 100:g} %)" for e in entries[:MOST_DEADLINES])
    more = f" and {len(entries) - MOST_DEADLINES} more" if len(entries) > MOST_DEADLINES else ""
    return f"SLO, and the share of requests that must keep it: {', '.join(told)}{more}."


def _score_table(scores: Mapping[str, Any], failed: Mapping[str, str]) -> str:
    heads = "".join(f'<th title="{escape(c.meaning)}">{escape(c.heading)}<br>{escape(c.unit)}</th>' for c in COLUMNS)
    rows = "".join(
        f"<tr><td>{_dot(number)}{_name(name, failed)}</td>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"
        for number, (name, texts) in enumerate(cells(scores))
    )
    return f"<table><thead><tr><th>policy</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _name(name: str, failed: Mapping[str, str]) -> str:
    if name not in failed:
        return escape(name)
    return f'<span class="missed" title="{escape(failed[name])}">{escape(name)} *</span>'


def _notes(scores: Mapping[str, Any]) -> str:
    parts = [
        f"{escape(name)}: {r['late']:,} late, {r['dropped']:,} dropped, worst service {escape(str(r['worst_service']))}"
        for name, r in scores.items()
    ]
    return f'<p class="soft">{"; ".join(parts)}.</p>'


def _dot(number: int) -> str:
    return f'<span class="dot" style="background:{colour(number)}"></span>'


def _known(shares: Mapping[str, float | str]) -> dict[str, float]:
    return {service: share for service, share in shares.items() if isinstance(share, float)}


def _decisions(policy: str, made: list[Mapping[str, Any]], limit: int = 200) -> str:
    acted = [d for d in made if d["action"] == "act"]
    rows = "".join(
        f"<tr><td>{d['tick']}</td><td>{moment(d['at_s'])}</td><td>{d['gpus_held']} → {d['gpus_wanted']}</td>"
        f'<td class="text">{escape(because(d))}</td></tr>'
        for d in acted[:limit]
    )
    more = f'<p class="soft">The first {limit} of {len(acted)}.</p>' if len(acted) > limit else ""
    head = "<thead><tr><th>turn</th><th>at</th><th>GPUs</th><th class='text'>chosen, and why</th></tr></thead>"
    table = f'<div class="card scroll"><table>{head}<tbody>{rows}</tbody></table></div>{more}' if acted else ""
    return f"<details><summary>{escape(policy)}: {len(acted)} that changed the plan</summary>{table}</details>"


def _code(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True))}</pre>"


def _figure(figure: go.Figure, name: str) -> str:
    options = {"responsive": True, "displayModeBar": False, "displaylogo": False}
    html: str = to_html(figure, include_plotlyjs=False, full_html=False, div_id=name, config=options)
    return f'<div class="card">{html}</div>'
