"""What every page has: its head, its look in light and dark, and how figures are put into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from partita.plots import colour

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #23272e; --soft: #626a75; --line: #e2e4e8;
  --missed: #c23a4b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --card: #1c2026; --ink: #e4e6ea; --soft: #98a1ad; --line: #313740; --missed: #ef7d8c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } h1, h2, h3, p, summary { overflow-wrap: anywhere; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .lead { font-size: 1.1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem; }
.card + .card { margin-top: .6rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .6rem; }
.beside > .card { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; } .long { max-height: 30rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .86rem; }
th, td { padding: .35rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
thead th { font-weight: 600; color: var(--soft); line-height: 1.2; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
th.text, td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; width: 99%; min-width: 14rem; }
.legend { margin: 0 0 .2rem; font-size: .8rem; color: var(--soft); line-height: 1.5; }
.legend span { white-space: nowrap; margin-right: 1rem; } .legend .dot { border-radius: .15em; margin-right: .35em; }
.zooms > .js-plotly-plot { margin-top: 1.4rem; } .zooms .modebar-container { top: -1.5rem !important; }
.missed { color: var(--missed); }
@media (max-width: 40rem) {
  main { padding: 1rem .6rem 3rem; } .card { padding: .4rem; } th, td { padding: .3rem; }
}
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.45; margin: .4rem 0; }
pre.again { white-space: pre-wrap; overflow-wrap: anywhere; }
.js-plotly-plot [class$="tick"] text, .js-plotly-plot .legendtext, .js-plotly-plot text[class$="title"],
.js-plotly-plot .annotation-text { fill: var(--soft) !important; }
.js-plotly-plot .modebar-group { background: none !important; }
.js-plotly-plot .modebar-btn path { fill: var(--soft) !important; }
"""

SCRIPT = """
"use strict";
const touch = matchMedia("(pointer: coarse)").matches;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
function spell(trace) {
  const packed = trace.meta;
  if (!packed || !packed.cells) return;
  const [rows, columns, most] = packed.cells;
  const busy = bytes(packed.busy), shares = bytes(packed.shares);
  const leaders = new Uint16Array(bytes(packed.leaders).buffer);
  const say = cell => {
    if (busy[cell] === 255) return "not ready";
    let text = `${busy[cell]} % busy`;
    for (let k = cell * most; k < (cell + 1) * most; k++)
      if (shares[k]) text += `<br>${packed.services[leaders[k]]} ${shares[k]} %`;
    return text;
  };
  trace.text = Array.from({length: rows}, (_, r) => Array.from({length: columns}, (_, c) => say(r * columns + c)));
}
const waiting = [];
const draw = (...figure) => waiting.push(figure);
document.addEventListener("DOMContentLoaded", () => waiting.forEach(figure => drawNow(...figure)));
function drawNow(id, figure, zooms) {
  figure.data.forEach(spell);
  const narrow = innerWidth < 640;
  if (narrow) figure.layout.font.size = 11;
  if (touch || !zooms) figure.layout.dragmode = false;
  Plotly.newPlot(id, figure.data, figure.layout, {
    responsive: true, displaylogo: false, displayModeBar: zooms ? (touch ? true : "hover") : false,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  });
}
"""
"""Draws figures, and spells out what the cells of a GPU timeline say.

A figure is as wide as its card is when it is drawn, so all wait until the whole page is laid out. A finger that strokes
a figure scrolls the page, so where fingers point the buttons zoom.
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Partita</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>',
        f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></head><body><main>",
    )
    return "\n".join((*head, *parts, "</main></body></html>\n"))


def figure_card(figure: go.Figure, name: str, *, zooms: bool = False, above: str = "") -> str:
    """Return a figure in a card, below what else is to stand in it.

    `name` is unlike that of any other on the page; `zooms` gives it buttons.
    """
    text = figure.to_json()  # no "<" is left in it
    height = int(figure.layout.height)
    script = f"<script>draw({json.dumps(name)}, {text}, {json.dumps(zooms)});</script>"
    kind = "card zooms" if zooms else "card"
    return f'<div class="{kind}">{above}<div id="{name}" style="height:{height}px"></div></div>{script}'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return a legend that wraps like text: (escaped text, colour)."""
    spans = (f'<span><i class="dot" style="background:{look}"></i>{text}</span>' for text, look in entries)
    return f'<p class="legend">{" ".join(spans)}</p>'


def beside(*cards: str) -> str:
    """Put cards beside each other where there is room for it."""
    return f'<div class="beside">{"".join(cards)}</div>'


def folded(heading: str, value: object) -> str:
    """Return plain data as text that can be read and copied once it is opened."""
    text = escape(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True))
    return f"<details><summary>{escape(heading)}</summary><pre>{text}</pre></details>"


def dot(number: int) -> str:
    """Return a dot in the colour of the n-th policy or discipline."""
    return f'<span class="dot" style="background:{colour(number)}"></span>'


def run_again(command: str | None, seeds: Sequence[int], versions: Mapping[str, str]) -> str:
    """Say how a result came about: the command, the seeds, the versions."""
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    shown = f'<pre class="again">{escape(command)}</pre>' if command else ""
    drawn = f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return f'{shown}<p class="soft">{drawn}; {escape(listed)}.</p>'
