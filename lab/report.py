#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the calls went through while something was done to the cluster: report.json and report.html.

    lab/report.py --calls calls.json --phases phases.json --out build/demo

--calls: what lab/callers.py wrote; give it several times to put runs together.
--phases: a list of {name, started, ended, ok} (unix seconds; ok optional), or a mapping {title, phases: [...],
events: [{t, kind: start|drain|stop|..., text}]} with the nodes' starts and drains; phases may have events of their own.
The page needs no network and no script; it follows the reader's choice of light or dark.
"""
from __future__ import annotations

import argparse
import datetime
import html
import json
import pathlib
import sys
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from callers import percentile, summarise, write_json  # noqa: E402

WIDTH, LEFT, RIGHT = 1000, 84, 12
TABLE_ROWS = 200
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
MARKS = {"start": "M-4.5 3.5L0 -4.5L4.5 3.5Z", "drain": "M-4.5 -3.5L0 4.5L4.5 -3.5Z"}  # up, down; others: a square


# ---------------------------------------------------------------- data


def assemble(runs: t.Sequence[t.Mapping[str, t.Any]], phases: t.Any, title: str | None = None) -> dict[str, t.Any]:
    """One report from callers' files and the phases: everything report.html shows, and every call's timeline."""
    plan = {"phases": phases} if isinstance(phases, list) else dict(phases or {})
    calls = sorted((c for run in runs for c in run["calls"]), key=lambda c: (c["started"], c["room"]))
    steps, events = [], list(plan.get("events", ()))
    for step in plan.get("phases", ()):
        events += [{**e, "phase": step["name"]} for e in step.get("events", ())]
        row = {**step, "seconds": round(step["ended"] - step["started"], 1)}
        row.update(during(calls, step["started"], step["ended"]))
        steps.append(row)
    starts = [c["started"] for c in calls] or [s["started"] for s in steps] or [0.0]
    ends = [c["ended"] for c in calls] or [s["ended"] for s in steps] or [0.0]
    load = sorted((x for run in runs for x in run.get("load", ())), key=lambda x: x["t"])
    loads = [x["load1"] for x in load]
    cpus = [x["client_cpu"] for x in load]
    return {
        "title": title or plan.get("title") or "Calls under change",
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "started": min(starts), "ended": max(ends), "summary": summarise(calls), "phases": steps,
        "events": sorted(events, key=lambda e: e["t"]), "load": load,
        "machine": {"load1_max": max(loads, default=None), "load1_p50": percentile(sorted(loads), 50), "client_cpu_p50": percentile(sorted(cpus), 50),
                    "client_lag_ms_max": max((x.get("lag_ms", 0) for x in load), default=None)},
        "transports": counts(c.get("transport") for c in calls), "calls": calls,
    }


def during(calls: t.Iterable[t.Mapping[str, t.Any]], start: float, end: float) -> dict[str, t.Any]:
    """What befell the calls within a phase: calls that were up, gaps that began, calls that were lost, joins."""
    up = [c for c in calls if c["started"] < end and c["ended"] > start]
    gaps = [g["seconds"] for c in up for g in c.get("gaps", ()) if start <= g["start"] < end]
    return {
        "calls": len(up), "gaps": len(gaps), "worst_gap": max(gaps, default=0.0),
        "dropped": sum(1 for c in up if c.get("dropped") and start <= lost_at(c) < end),
        "joins": sum(1 for c in up if start <= c["started"] < end and c.get("join_ms") is not None),
    }


def lost_at(call: t.Mapping[str, t.Any]) -> float:
    """When a dropped call was lost: its last sound, or its start if there was none."""
    return call.get("last_media") or call["started"]


def counts(values: t.Iterable[t.Any]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        out[value or "unknown"] = out.get(value or "unknown", 0) + 1
    return dict(sorted(out.items()))


def lanes(calls: t.Sequence[t.Mapping[str, t.Any]]) -> list[list[t.Mapping[str, t.Any]]]:
    """Rows of the plot: calls that follow each other share one, so that a long run of short calls stays readable."""
    rows: dict[t.Any, list[t.Mapping[str, t.Any]]] = {}
    loose: list[list[t.Mapping[str, t.Any]]] = []
    for call in calls:
        if call.get("line") is not None:
            rows.setdefault((call.get("client"), call["line"]), []).append(call)
            continue
        for row in loose:
            if row[-1]["ended"] <= call["started"]:
                row.append(call)
                break
        else:
            loose.append([call])
    packed: list[list[t.Mapping[str, t.Any]]] = []
    for row in sorted(rows.values(), key=lambda r: (r[0]["line"], r[0]["started"])):
        # the same line number of another run goes below, unless it begins after this one's end
        before = next((p for p in packed if p[0]["line"] == row[0]["line"] and p[-1]["ended"] <= row[0]["started"]), None)
        if before is not None:
            before.extend(row)
        else:
            packed.append(list(row))
    return packed + loose


def sounds(call: t.Mapping[str, t.Any]) -> list[tuple[float, float]]:
    """The stretches of a call in which media was heard."""
    if call.get("first_media") is None:
        return []
    out, at = [], call["first_media"]
    for gap in call.get("gaps", ()):
        out.append((at, gap["start"]))
        at = gap["start"] + gap["seconds"]
    out.append((at, max(at, call.get("last_media") or at)))
    return [(a, b) for a, b in out if b > a]


# ---------------------------------------------------------------- the page


def esc(value: t.Any) -> str:
    return html.escape("–" if value is None else str(value))


def clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S")


def span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def plot(report: t.Mapping[str, t.Any]) -> str:
    """The timeline as SVG: phases behind, marks of nodes above, one row of bars per line of calls."""
    rows = lanes(report["calls"])
    start, end = report["started"], max(report["ended"], report["started"] + 1)
    for step in report["phases"]:  # phases that have nothing to do with the calls stay outside
        if step["ended"] > report["started"] and step["started"] < report["ended"]:
            start, end = min(start, max(step["started"], report["started"] - 5)), max(end, min(step["ended"], report["ended"] + 5))
    scale = (WIDTH - LEFT - RIGHT) / (end - start)
    pitch = 18 if len(rows) <= 30 else 11 if len(rows) <= 80 else 6
    thickness = pitch - (5 if pitch > 10 else 1)
    shown = [s for s in report["phases"] if s["ended"] > start and s["started"] < end]
    heads, head_rows = _heads(shown, start, end, scale)
    top = 10 + 15 * head_rows + (22 if report["events"] else 6)
    bottom = top + pitch * len(rows)
    height = bottom + 34

    def x(at: float) -> float:
        return round(LEFT + (min(max(at, start), end) - start) * scale, 1)

    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Timeline of {len(report["calls"])} calls" font-size="11">']
    for number, step in enumerate(shown):
        kind = "bad" if step.get("ok") is False else "odd" if number % 2 else "even"
        out.append(f'<rect class="phase {kind}" x="{x(step["started"])}" y="4" width="{max(1.0, x(step["ended"]) - x(step["started"])):.1f}" '
                   f'height="{bottom}"><title>{esc(step["name"])}: {span(step["seconds"])}</title></rect>')
    for text, at, row, anchor in heads:
        out.append(f'<text class="head" x="{at:.1f}" y="{15 + 15 * row}" text-anchor="{anchor}">{esc(text)}</text>')
    step_s = next((s for s in TICKS if (end - start) / s <= 12), 7200)
    for i in range(int((end - start) // step_s) + 1):
        at = x(start + i * step_s)
        label = f"{i * step_s} s" if end - start <= 300 else f"{i * step_s / 60:g} min"
        out.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
        anchor = "end" if at > WIDTH - 40 else "middle"
        out.append(f'<text class="tick" x="{at}" y="{bottom + 14}" text-anchor="{anchor}">{label}</text>')
    out.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{bottom + 29}" text-anchor="end">from {clock(start)}</text>')
    for row_number, row in enumerate(rows):
        y = top + pitch * row_number + (pitch - thickness) / 2
        if pitch > 10:
            name = row[0]["room"] if len(row) == 1 else f"{len(row)} calls"
            kind = "browser" if row[0].get("client") == "browser" else "call"
            short = f"{kind} {row[0]['line'] + 1}" if row[0].get("line") is not None else name if len(name) <= 13 else "…" + name[-11:]
            out.append(f'<text class="row" x="{LEFT - 6}" y="{y + thickness - 3:.1f}" text-anchor="end"><title>{esc(name)}</title>{esc(short)}</text>')
        for call in row:
            out += _bars(call, x, y, thickness)
    for event in report["events"]:
        if start <= event["t"] <= end:
            out.append(f'<g class="mark {esc(event.get("kind", "other"))}" transform="translate({x(event["t"])} {top - 10})">'
                       f'<line y1="5" y2="{bottom - top + 10}"/><path d="{MARKS.get(event.get("kind", ""), "M-3 -3H3V3H-3Z")}"/>'
                       f'<title>{clock(event["t"])} {esc(event.get("text", event.get("kind")))}</title></g>')
    return "\n".join([*out, "</svg>"])


def _heads(steps: t.Sequence[t.Mapping[str, t.Any]], start: float, end: float, scale: float) -> tuple[list[tuple[str, float, int, str]], int]:
    """Where the names of phases go: in as many rows as it takes for none to lie on another."""
    taken: list[float] = []
    out = []
    for step in steps:
        text = f"{step['name']} · {span(step['seconds'])}"
        text = text if len(text) <= 64 else f"{step['name'][:50].rstrip()}… · {span(step['seconds'])}"
        width = 5.9 * len(text)
        at, anchor = LEFT + (max(step["started"], start) - start) * scale + 3, "start"
        if at + width > WIDTH:
            at, anchor = min(WIDTH - 2.0, LEFT + (min(step["ended"], end) - start) * scale), "end"
        left = at if anchor == "start" else at - width
        row = next((i for i, reach in enumerate(taken) if reach <= left), len(taken))
        if row == len(taken):
            taken.append(0.0)
        taken[row] = left + width + 8
        out.append((text, at, row, anchor))
    return out, len(taken)


def _bars(call: t.Mapping[str, t.Any], x: t.Callable[[float], float], y: float, height: float) -> list[str]:
    """One call: its frame, what was heard, the silences on top, a cross where it was lost."""
    tip = f"{call['room']}: joined in {call['join_ms']} ms, " if call.get("join_ms") is not None else f"{call['room']}: "
    tip += f"{len(call.get('gaps', ()))} gaps" + (f", dropped: {call['reason']}" if call.get("dropped") else "")
    left, right = x(call["started"]), x(call["ended"])
    out = [f'<g><title>{esc(tip)}</title><rect class="call" x="{left}" y="{y:.1f}" width="{max(1.0, right - left):.1f}" height="{height}" rx="2"/>']
    for a, b in sounds(call):
        out.append(f'<rect class="media" x="{x(a)}" y="{y:.1f}" width="{max(0.5, x(b) - x(a)):.1f}" height="{height}"/>')
    out.append("</g>")
    for gap in call.get("gaps", ()):
        a, b = x(gap["start"]), x(gap["start"] + gap["seconds"])
        width = max(2.5, b - a)  # a short silence must still be seen
        out.append(f'<rect class="gap" x="{a}" y="{y - 1:.1f}" width="{width:.1f}" height="{height + 2}">'
                   f'<title>{esc(call["room"])}: silent for {gap["seconds"]:.2f} s at {clock(gap["start"])}</title></rect>')
    if call.get("dropped"):
        at, mid = x(lost_at(call)), y + height / 2
        out.append(f'<path class="lost" d="M{at - 5:.1f} {mid - 5:.1f}l10 10m0 -10l-10 10"><title>{esc(tip)}</title></path>')
    return out


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[t.Any]], numbers: t.Collection[int] = (), marked: t.Collection[int] = ()) -> str:
    def cell(i: int, value: t.Any) -> str:
        return f'<td{" class=n" if i in numbers else ""}>{esc(value)}</td>'

    body = "".join(
        f"<tr{' class=red' if n in marked else ''}>{''.join(cell(i, v) for i, v in enumerate(row))}</tr>" for n, row in enumerate(rows))
    names = "".join(f'<th{" class=n" if i in numbers else ""}>{esc(h)}</th>' for i, h in enumerate(head))
    return f"<div class=scroll><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"


def tiles(report: t.Mapping[str, t.Any]) -> str:
    s = report["summary"]

    def ms(value: t.Any) -> str:
        return "–" if value is None else f"{value:.0f} ms"

    shown = [
        ("calls", s["calls"], span(report["ended"] - report["started"]), ""),
        ("dropped", s["dropped"], "ended or silent unasked", "bad" if s["dropped"] else "good"),
        ("gaps", s["gaps"], f"in {s['calls_with_gaps']} calls, over 250 ms each", "bad" if s["gaps"] else "good"),
        ("worst gap", f"{s['worst_gap']:.2f} s", f"median {s['gap_p50']:.2f} s" if s["gaps"] else "no silence", "bad" if s["gaps"] else "good"),
        ("join, median", ms(s["join_p50"]), f"p95 {ms(s['join_p95'])}", ""),
        ("first sound, median", ms(s["first_media_p50"]), f"p95 {ms(s['first_media_p95'])}", ""),
    ]
    return "".join(f'<div class="tile {kind}"><span>{esc(name)}</span><b>{esc(value)}</b><small>{esc(more)}</small></div>' for name, value, more, kind in shown)


def verdict(report: t.Mapping[str, t.Any]) -> str:
    s = report["summary"]
    if not s["calls"]:
        return "There were no calls."
    if s["dropped"]:
        return f"{s['dropped']} of {s['calls']} calls were dropped."
    if s["gaps"]:
        return f"None of {s['calls']} calls was dropped; {s['calls_with_gaps']} had silences, the longest {s['worst_gap']:.2f} s."
    return f"None of {s['calls']} calls was dropped, and none had a silence over 250 ms."


STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2125;--dim:#63696f;--line:#dfe2e5;--media:#2f8f83;--call:#e3e6e8;
--red:#d3222a;
--good:#1f7a52;--odd:#e9eef6;--even:#f3f1e7;--badp:#fbe6e4;--mark:#43474c}
@media(prefers-color-scheme:dark){:root{--bg:#15181b;--card:#1c2024;--ink:#e7e9eb;--dim:#9aa1a8;--line:#32383e;--media:#3fa697;
--call:#31373c;--red:#ff5a57;
--good:#54c08c;--odd:#222b37;--even:#2b2a22;--badp:#3a2323;--mark:#c3c8cd}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 16px 48px}h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:28px 0 8px}
.verdict{font-size:1.1rem;margin:6px 0 2px}.verdict.bad{color:var(--red);font-weight:600}p.dim,.dim{color:var(--dim);margin:2px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:10px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px;display:flex;flex-direction:column}
.tile span,.tile small{color:var(--dim);font-size:.82rem}.tile b{font-size:1.55rem;font-variant-numeric:tabular-nums}
.tile.bad b{color:var(--red)}.tile.good b{color:var(--good)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
.scroll.tall{max-height:520px;overflow-y:auto}.plot svg{display:block;min-width:760px;width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}th,td{padding:5px 10px;
text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
td:last-child{white-space:normal;min-width:130px}th{color:var(--dim);font-weight:600;background:var(--card);position:sticky;top:0}
.n{text-align:right}tr.red td{color:var(--red)}tbody tr:last-child td{border-bottom:0}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--dim);font-size:.85rem;margin:8px 0}.key i{display:inline-block;
width:14px;height:10px;border-radius:2px;margin-right:6px}
svg text{fill:var(--dim);font-family:system-ui,sans-serif}svg .head{fill:var(--ink);font-weight:600}svg .row{font-size:10px}
.grid{stroke:var(--line);stroke-width:1}
.phase.odd{fill:var(--odd)}.phase.even{fill:var(--even)}.phase.bad{fill:var(--badp)}.call{fill:var(--call)}
.media{fill:var(--media)}.gap{fill:var(--red)}
.lost{stroke:var(--red);stroke-width:3;fill:none}.mark line{stroke:var(--mark);stroke-width:1;stroke-dasharray:2 3;opacity:.55}
.mark path{fill:var(--mark)}
"""


def page(report: t.Mapping[str, t.Any]) -> str:
    """The whole of report.html."""
    s, calls = report["summary"], report["calls"]
    worst = sorted(calls, key=lambda c: (not c.get("dropped"), -max((g["seconds"] for g in c.get("gaps", ())), default=0.0), c["started"]))[:TABLE_ROWS]
    call_rows = [
        (c["room"], clock(c["started"]), f"{c['ended'] - c['started']:.0f} s", c.get("join_ms"), c.get("first_media_ms"), len(c.get("gaps", ())),
         f"{max(g['seconds'] for g in c['gaps']):.2f} s" if c.get("gaps") else "–", c.get("loss_percent"), c.get("transport"), c.get("remote"),
         ("dropped: " + str(c["reason"])) if c.get("dropped") else "; ".join(notes(c)) or "–")
        for c in worst
    ]
    phase_rows = [
        (p["name"], clock(p["started"]), span(p["seconds"]), p["calls"], p["joins"], p["gaps"], f"{p['worst_gap']:.2f} s" if p["gaps"] else "–", p["dropped"],
         "–" if p.get("ok") is None else "as expected" if p["ok"] else "failed")
        for p in report["phases"]
    ]
    machine = report["machine"]
    ways = ", ".join(f"{k} ({v})" for k, v in report["transports"].items()) or "–"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'><title>{esc(report['title'])}</title>"
        f"<style>{STYLE}</style><main><h1>{esc(report['title'])}</h1>",
        f"<p class='verdict{' bad' if s['dropped'] else ''}'>{esc(verdict(report))}</p>",
        f"<p class=dim>{datetime.datetime.fromtimestamp(report['started']).strftime('%Y-%m-%d %H:%M:%S')} to {clock(report['ended'])}. "
        "In each call one client sends a tone through the cluster and another one listens; what counts is what it hears."
        + (" Browsers send and watch video; what counts is the frames they show." if any(c.get("client") == "browser" for c in calls) else "") + "</p>",
        f"<div class=tiles>{tiles(report)}</div>",
        f"<h2>Timeline</h2><div class='scroll plot'>{plot(report)}</div>",
        "<div class=key><span><i style='background:var(--media)'></i>media heard</span><span><i style='background:var(--red)'></i>silence (gap)</span>"
        "<span><i style='background:var(--call)'></i>joining</span><span><b style='color:var(--red)'>✕</b> call lost</span>"
        + ("<span>▲ node starts</span><span>▼ node drains</span>" if report["events"] else "") + "<span>shaded: phases</span></div>",
    ]
    if phase_rows:
        parts.append("<h2>Phases</h2>" + table(
            ("phase", "from", "took", "calls up", "joins", "gaps", "worst gap", "dropped", "result"), phase_rows, {2, 3, 4, 5, 6, 7},
            [i for i, p in enumerate(report["phases"]) if p["dropped"] or p.get("ok") is False]))
    if report["events"]:
        parts.append("<h2>Nodes</h2>" + table(("at", "", "what"), [(clock(e["t"]), e.get("kind"), e.get("text")) for e in report["events"]]))
    cut = f"<p class=dim>The {TABLE_ROWS} worst of {len(calls)}; all are in report.json.</p>" if len(calls) > TABLE_ROWS else ""
    parts.append(f"<h2>Calls</h2>{cut}" + table(
        ("room", "from", "lasted", "join ms", "first sound ms", "gaps", "worst gap", "loss %", "over", "media from", "notes"), call_rows, {2, 3, 4, 5, 6, 7},
        [i for i, c in enumerate(worst) if c.get("dropped")]).replace("class=scroll", "class='scroll tall'"))
    parts.append(
        f"<p class=dim>Media went over {esc(ways)}. On the machine of the clients: load average "
        f"{esc(machine['load1_p50'])} (up to {esc(machine['load1_max'])}), clients' CPU {esc(machine['client_cpu_p50'])} cores, client held up for at most "
        f"{esc(machine['client_lag_ms_max'])} ms. Join times and gaps of a busy machine are partly its own.</p></main></html>")
    return "\n".join(parts)


def notes(call: t.Mapping[str, t.Any]) -> list[str]:
    """What is worth a word about a call that was not dropped."""
    out = []
    names = [e["event"] for e in call.get("events", ())]
    for word in ("reconnecting", "disconnected", "error"):
        if names.count(word):
            out.append(f"{word} × {names.count(word)}")
    if any(g.get("client_lag_ms") for g in call.get("gaps", ())):
        out.append("client was held up during a gap")
    if call.get("first_media_ms") is None:
        out.append("ended before media was due")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=pathlib.Path, action="append", required=True)
    parser.add_argument("--phases", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory for report.json and report.html")
    parser.add_argument("--title")
    args = parser.parse_args()
    report = assemble([json.loads(p.read_text()) for p in args.calls], json.loads(args.phases.read_text()) if args.phases else [], args.title)
    write_json(args.out / "report.json", report)
    (args.out / "report.html").write_text(page(report))
    print(f"report: {verdict(report)} {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
