# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long callers hear nothing, by what is done to the cluster: build/bench/report.html and report.json from the benches' raw figures.

    tests/bench/report.py [--bench build/bench] [--out build/bench]

Takes drops.json, browser.json, crash.json and faults.json, whichever are there. The page needs no network and no script, and follows the reader's
choice of light or dark.
"""
from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import math
import pathlib
import sys
import typing as t
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lab"))

from callers import percentile, write_json  # noqa: E402

_spec = importlib.util.spec_from_file_location("lab_report", ROOT / "lab" / "report.py")  # its name is that of this file
lab_report = importlib.util.module_from_spec(_spec)  # type: ignore[arg-type]
_spec.loader.exec_module(lab_report)  # type: ignore[union-attr]
esc = lab_report.esc

WIDTH, LEFT, RIGHT, PITCH = 1000, 250, 118, 30
TICKS = (0.25, 0.5, 1, 2, 5, 10, 20, 60, 120, 600)
FLOOR = 0.25  # seconds; shorter silences are not written down
KINDS = {"sigkill": "process killed", "sigstop": "process hangs", "container": "host dies", "network": "host cut off"}
MODES = {"ours": "with the controller", "settings": "LiveKit alone, our settings", "stock": "LiveKit alone"}


@dataclasses.dataclass(frozen=True)
class Series:
    """Silences of one kind. of: calls or rooms that were concerned, where that is known."""

    group: str
    name: str
    values: tuple[float, ...]  # seconds, sorted
    mode: str = "ours"
    lost: int = 0
    of: int | None = None
    goals: tuple[float, float] | None = None  # p50, p99

    def figures(self) -> dict[str, t.Any]:
        return {"operation": self.group, "what": self.name, "mode": self.mode, "silences": len(self.values), "calls": self.of, "lost": self.lost,
                "goals": self.goals,
                **{f"p{p}": percentile(self.values, p) for p in (50, 90, 99)}, "max": self.values[-1] if self.values else None, "values": list(self.values)}


# ---------------------------------------------------------------- data


def series(drops: t.Mapping[str, t.Any], crash: t.Mapping[str, t.Any], faults: t.Mapping[str, t.Any], browser: t.Mapping[str, t.Any]) -> list[Series]:
    """Every distribution that the raw figures hold, in the order of the page."""
    found = []
    if drops.get("moves"):
        m = drops["moves"]
        found.append(Series("Live move", "all rooms of a node", _sorted(g for r in m["runs"] for g in r["gaps"]), lost=len(m["dropped"]), of=m["moved"],
                            goals=(0.8, 1.5)))
    for policy, name in (("now", "calls moved at once"), ("wait", "calls stay until they end")):
        runs = [r for r in drops.get("upgrades", {}).get("runs", ()) if r.get("policy") == policy]
        if runs:
            lost = sum(any(r["started"] <= (c.get("last_media") or c["started"]) <= r["ended"] for r in runs) for c in drops["upgrades"]["dropped"])
            found.append(Series("Upgrade of three nodes", name, _sorted(g for r in runs for g in r["gaps"]), lost=lost, of=sum(r["calls"] for r in runs)))
    for what, name in (("moves", "live move"), ("upgrade", "upgrade, calls moved at once"), ("crash", "process killed")):
        if browser:  # who was lost is told once, with the moves
            found.append(Series("Picture in a browser", name, _sorted(browser["gaps"][what]), goals=(2.3, 3.0) if what == "moves" else None,
                                lost=sum(c["dropped"] for c in browser["calls"]) if what == "moves" else 0))
    for kind, name in KINDS.items():
        for mode in MODES:
            runs = [r for r in crash.get("runs", ()) if (r["kind"], r["mode"]) == (kind, mode)]
            if runs:
                values = _sorted(s for r in runs for s in r["silences"])
                goals = (2.0, 3.5) if (kind, mode) == ("sigkill", "ours") else None
                found.append(Series("Crash of a node", name, values, mode, sum(len(r["lost"]) for r in runs), len(values), goals))
    if crash.get("stalls"):
        found.append(Series("Crash of a node", "none: Redis hangs 3 s", _sorted(g for r in crash["stalls"] for g in r["gaps"]),
                            lost=sum(len(r["lost"]) for r in crash["stalls"])))
    for name in dict.fromkeys(r["fault"] for r in faults.get("rounds", ())):
        rounds = [r for r in faults["rounds"] if r["fault"] == name]
        found.append(Series("Faults", name, _sorted(g for r in rounds for g in r["gaps"]), lost=sum(max(0, r["dropped"] - r["given_up"]) for r in rounds)))
    return found


def _sorted(values: t.Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(values))


def assemble(bench: pathlib.Path) -> dict[str, t.Any]:
    """All that the page shows."""
    raw, made = {}, {}
    for name in ("drops", "browser", "crash", "faults"):
        path = bench / f"{name}.json"
        raw[name] = json.loads(path.read_text()) if path.exists() else {}
        if raw[name]:
            made[name] = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    goals = [{"bench": name, "what": row[0], "figure": row[1], "goal": row[2], "met": row[3]}
             for name in ("drops", "browser", "crash") for row in raw[name].get("rows", ()) if row[2] != ""]
    faults = []
    for name, about in raw["faults"].get("faults", {}).items():
        rounds = [r for r in raw["faults"]["rounds"] if r["fault"] == name]
        if rounds:
            faults.append({"name": name, "about": about, "rounds": len(rounds), "held": sum(not r["problems"] for r in rounds), "seed": rounds[0]["seed"],
                           "problems": [f"round {r['number']}, seed {r['seed']}: {p}" for r in rounds for p in r["problems"]],
                           "facts": [r["facts"] for r in rounds]})
    found = series(raw["drops"], raw["crash"], raw["faults"], raw["browser"])
    return {"title": "Silence under change", "made": made, "series": found, "goals": goals, "faults": faults,
            "load": {name: round(value["load"][0], 1) for name, value in raw.items() if value.get("load")}}


# ---------------------------------------------------------------- the page


def plot(rows: t.Sequence[Series], label: str) -> str:
    """One strip per series on a logarithmic axis of seconds: every silence a dot, a bar from p50 to p99, goals as brackets."""
    top = max([10.0, *(v for s in rows for v in s.values)]) * 1.15
    span = math.log(top / (FLOOR * 0.8))
    heads = [i for i, s in enumerate(rows) if i == 0 or rows[i - 1].group != s.group]

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(seconds, FLOOR * 0.85) / (FLOOR * 0.8)) / span, 1)

    ys, y = [], 8.0
    for i, dummy in enumerate(rows):
        y += 26 if i in heads else 0
        ys.append(y)
        y += PITCH
    bottom = y + 2
    out = [f'<svg viewBox="0 0 {WIDTH} {bottom + 34:.0f}" role="img" aria-label="{esc(label)}" font-size="12">']
    for tick in (v for v in TICKS if v < top):
        out.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="8" y2="{bottom}"/>'
                   f'<text class="tick" x="{x(tick)}" y="{bottom + 15}" text-anchor="middle">{tick:g} s</text>')
    out.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 30}" text-anchor="middle">silence of a call, logarithmic</text>')
    for i, (s, at) in enumerate(zip(rows, ys)):
        if i in heads:
            out.append(f'<text class="head" x="8" y="{at - 8:.1f}">{esc(s.group)}</text>')
            if i:
                out.append(f'<line class="rule" x1="8" x2="{WIDTH - 8}" y1="{at - 24:.1f}" y2="{at - 24:.1f}"/>')
        out += _strip(s, at, x, i and rows[i - 1].name == s.name and rows[i - 1].group == s.group)
    return "\n".join([*out, "</svg>"])


def _strip(s: Series, top: float, x: t.Callable[[float], float], same: t.Any) -> list[str]:
    mid = top + PITCH / 2
    name = "" if same else s.name
    text = name if s.group != "Crash of a node" or s.name.startswith("none") else f"{name}{', ' if name else ''}{MODES[s.mode]}"
    out = [f'<text class="row" x="{LEFT - 12}" y="{mid + 4:.1f}" text-anchor="end">{esc(text)}</text>']
    p50, p99 = percentile(s.values, 50), percentile(s.values, 99)
    if s.goals:
        for goal, which in zip(s.goals, ("p50", "p99")):
            out.append(f'<path class="goal" d="M{x(goal) - 4} {mid - 12:.1f}h4v24h-4"><title>goal for {which}: {goal:g} s</title></path>')
    if p50 is not None and p99 is not None:
        out.append(f'<rect class="range {s.mode}" x="{x(p50)}" y="{mid - 8:.1f}" width="{max(2.0, x(p99) - x(p50)):.1f}" height="16" rx="3">'
                   f'<title>{esc(s.name)}: p50 {p50:.2f} s, p99 {p99:.2f} s</title></rect>')
    for number, value in enumerate(s.values):
        jitter = (zlib.crc32(f"{s.name}{s.mode}{number}".encode()) % 1000 / 1000 - 0.5) * 14
        out.append(f'<circle class="dot {s.mode}" cx="{x(value)}" cy="{mid + jitter:.1f}" r="2.6"><title>{value:.2f} s</title></circle>')
    if p50 is not None:
        out.append(f'<line class="median {s.mode}" x1="{x(p50)}" x2="{x(p50)}" y1="{mid - 12:.1f}" y2="{mid + 12:.1f}"/>')
    told = "no silence" if p50 is None else f"{p50:.2f} · {p99:.2f} s"
    out.append(f'<text class="told" x="{WIDTH - 8}" y="{mid + 4:.1f}" text-anchor="end">{told}{f" · {s.lost} lost" if s.lost else ""}</text>')
    return out


STYLE = """
:root{--ours:#1f7f74;--stock:#b4552d;--settings:#7a6cae;--goal:#43474c}
@media(prefers-color-scheme:dark){:root{--ours:#45b5a6;--stock:#e58a5c;--settings:#a99be0;--goal:#c3c8cd}}
.dot{fill-opacity:.55}.range{fill-opacity:.2}.median{stroke-width:2.5}.goal{fill:none;stroke:var(--goal);stroke-width:1.5}.rule{stroke:var(--line)}
.ours{fill:var(--ours)}.stock{fill:var(--stock)}.settings{fill:var(--settings)}
line.ours{stroke:var(--ours)}line.stock{stroke:var(--stock)}line.settings{stroke:var(--settings)}
svg .row{font-size:12px;fill:var(--ink)}svg .told{fill:var(--ink);font-variant-numeric:tabular-nums}.key i.line{width:3px;height:14px;vertical-align:-2px}
.yes{color:var(--good)}.no{color:var(--red);font-weight:600}details{margin:6px 0}summary{cursor:pointer}.wrap td:last-child{white-space:normal}
.wrap td{white-space:nowrap;vertical-align:top}
"""


def tiles(report: t.Mapping[str, t.Any]) -> str:
    found: list[Series] = report["series"]
    shown = []
    for group, name, what in (("Live move", "all rooms of a node", "live move"), ("Crash of a node", "process killed", "crash of a node")):
        s = next((s for s in found if (s.group, s.name, s.mode) == (group, name, "ours")), None)
        if s and s.values:
            p99 = percentile(s.values, 99) or 0.0
            shown.append((f"{what}, median", f"{percentile(s.values, 50):.2f} s", f"p99 {p99:.2f} s of {len(s.values)}",
                          "bad" if s.goals and p99 > s.goals[1] else "good"))
    s = next((s for s in found if (s.group, s.name, s.mode) == ("Crash of a node", "process killed", "stock")), None)
    if s and s.values:
        shown.append(("the same, LiveKit alone", f"{percentile(s.values, 50):.2f} s", f"p99 {percentile(s.values, 99):.2f} s of {len(s.values)}", ""))
    lost = sum(s.lost for s in found if s.mode == "ours")
    shown.append(("calls lost by us", lost, "in everything on this page", "bad" if lost else "good"))
    rounds = sum(f["rounds"] for f in report["faults"])
    if rounds:
        held = sum(f["held"] for f in report["faults"])
        shown.append(("faults", f"{held} of {rounds}", f"rounds of {len(report['faults'])} faults in which all held", "good" if held == rounds else "bad"))
    return "".join(f'<div class="tile {kind}"><span>{esc(n)}</span><b>{esc(value)}</b><small>{esc(more)}</small></div>' for n, value, more, kind in shown)


def page(report: t.Mapping[str, t.Any]) -> str:
    """The whole of report.html."""
    found: list[Series] = report["series"]
    plain, faults = [s for s in found if s.group != "Faults"], [s for s in found if s.group == "Faults"]
    missed = sum(not g["met"] for g in report["goals"]) + sum(f["held"] < f["rounds"] for f in report["faults"])
    count = len(report["goals"]) + len(report["faults"])
    verdict = f"All {count} goals and faults are as they should be." if not missed else f"{missed} of {count} goals and faults are not as they should be."
    when = ", ".join(f"{name} of {at} (load average {report['load'].get(name, '–')})" for name, at in report["made"].items())
    key = "".join(f"<span><i style='background:var(--{mode})'></i>{text}</span>" for mode, text in MODES.items() if any(s.mode == mode for s in plain))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{esc(report['title'])}</title>"
        f"<style>{lab_report.STYLE}{STYLE}</style><main><h1>{esc(report['title'])}</h1>",
        f"<p class='verdict{' bad' if missed else ''}'>{verdict}</p>" if report["made"] else "<p class=verdict>No figures yet: run scripts/bench.</p>",
        "<p class=dim>In each call one client sends a tone through the cluster and another one listens; "
        f"a silence is what it does not hear, from {FLOOR:g} s on. "
        "Clients, nodes, Redis and balancers share one machine: what it was busy with is in the figures.</p>",
        f"<div class=tiles>{tiles(report)}</div>",
    ]
    if plain:
        parts += [
            f"<h2>Silence of each call</h2><div class='scroll plot'>{plot(plain, 'Silences by operation')}</div>",
            f"<div class=key>{key}<span>dot: one call</span><span>bar: p50 to p99, both at the right</span><span>] goals for p50 and p99</span></div>",
        ]
    if report["goals"]:
        rows = [(g["what"], g["figure"], g["goal"], "met" if g["met"] else "not met") for g in report["goals"]]
        parts.append("<h2>Goals</h2>" + lab_report.table(("what", "measured", "goal", ""), rows, {1, 2},
                                                         [i for i, g in enumerate(report["goals"]) if not g["met"]]))
    if report["faults"]:
        rows = [(f["name"], f"{f['held']} of {f['rounds']}", f["about"]) for f in report["faults"]]
        parts.append("<h2>Faults</h2><p class=dim>Rounds in which all held: no call lost, hosts went on serving, no room on two nodes, "
                     "nothing decided on stale data, "
                     "everything finished afterwards.</p><div class=wrap>"
                     + lab_report.table(("fault", "held", "what happens, and what a caller may notice"), rows, {1},
                                        [i for i, f in enumerate(report["faults"]) if f["held"] < f["rounds"]]) + "</div>")
        bad = [(f["name"], p) for f in report["faults"] for p in f["problems"]]
        if bad:
            parts.append("<h3>What did not hold</h3><div class=wrap>" + lab_report.table(("fault", "what was seen"), bad) + "</div>")
        parts.append(f"<h2>Silences under faults</h2><div class='scroll plot'>{plot(faults, 'Silences by fault')}</div>")
    if found:
        def cell(value: float | None) -> str:
            return "–" if value is None else f"{value:.2f}"

        rows = [(s.group, s.name, MODES[s.mode] if s.group == "Crash of a node" else "", len(s.values), *(cell(percentile(s.values, p)) for p in (50, 90, 99)),
                 cell(s.values[-1] if s.values else None), s.lost) for s in found]
        headings = ("operation", "", "", "silences", "p50", "p90", "p99", "longest", "lost")
        lost = [i for i, s in enumerate(found) if s.lost and s.mode == "ours"]
        parts.append("<h2>Numbers</h2><p class=dim>Seconds.</p>" + lab_report.table(headings, rows, {3, 4, 5, 6, 7, 8}, lost))
    parts.append(f"<p class=dim>{esc(when)}. Raw figures beside this page.</p></main></html>")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build" / "bench")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    out = args.out or args.bench
    report = assemble(args.bench)
    write_json(out / "report.json", {**report, "series": [s.figures() for s in report["series"]]})
    (out / "report.html").write_text(page(report))
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
