// The status page: takes the state from /events and shows it. Text from the cluster (room names are anybody's input) only ever
// becomes text nodes, never markup.
"use strict";

const LATE = 6; // seconds without news until the page says so
const byId = (id) => document.getElementById(id);
const shown = {}; // section -> what it shows now, so that only what changed is made anew
let state = null;
let heard = 0; // when, by this device's clock
let offset = 0; // the cluster's clock minus this device's

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

const now = () => Date.now() / 1000 + offset;
const count = (n, word) => `${n ?? "?"} ${word}${n === 1 ? "" : "s"}`;
const chip = (text, kind) => el("span", {class: `chip ${kind || ""}`}, text);

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// A time that keeps itself up to date: refresh() below fills all of them each second.
function ago(at, before, after) {
  return el("time", {"data-at": at, "data-before": before || "", "data-after": after ?? " ago", title: new Date(at * 1000).toLocaleString()});
}

function refresh() {
  for (const node of document.querySelectorAll("time[data-at]")) {
    const left = Number(node.dataset.at) - now();
    node.textContent = node.dataset.before === "in " && left <= 0 ? "any moment" : node.dataset.before + span(Math.abs(left)) + node.dataset.after;
  }
  const late = heard && (Date.now() - heard) / 1000 > LATE;
  const link = byId("link");
  const text = !heard ? "connecting" : late ? `no news for ${span((Date.now() - heard) / 1000)}` : "live";
  if (byId("link-text").textContent !== text) byId("link-text").textContent = text;
  link.className = `link ${late ? "late" : heard ? "live" : ""}`;
  document.body.classList.toggle("stale", Boolean(late || (state && state.frozen)));
}

// Make a section anew when what it shows has changed; keep what the reader has opened.
function section(id, data, make) {
  const text = JSON.stringify(data);
  if (shown[id] === text) return;
  shown[id] = text;
  const box = byId(id);
  const open = new Set([...box.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  box.replaceChildren(...make(data));
  for (const d of box.querySelectorAll("details")) d.open = open.has(d.dataset.key);
}

function notices(s) {
  const out = [];
  if (s.frozen) out.push(el("p", {class: "notice bad"}, `Frozen: ${s.frozen}. Nothing is decided until the data can be trusted; what is shown may be old.`));
  if (s.self.dry_run) out.push(el("p", {class: "notice"}, "Dry run: this controller decides and notes, but changes nothing."));
  if (!s.controllers.some((c) => c.leader && c.alive && !c.dry_run) && !s.self.dry_run) out.push(el("p", {class: "notice bad"}, "No controller leads: crashes are not recovered."));
  return out;
}

function totals(t) {
  const item = (name, value, text) => el("div", {}, el("dt", {}, name), el("dd", {class: text ? "text" : null}, value));
  return [item("Nodes serving", t.serving), item("Draining", t.draining), item("Rooms", t.rooms), item("Participants", t.participants),
    item(t.versions.length === 1 ? "Version" : "Versions", t.versions.join(", ") || "none", true)];
}

const KINDS = {serving: "good", gating: "info", draining: "busy", failed: "bad"};

function load(slot) {
  if (slot.cpu === null) return null;
  const percent = Math.round(Math.min(1, Math.max(0, slot.cpu)) * 100);
  const fill = el("i");
  fill.style.width = `${percent}%`;
  const level = percent >= 90 ? "full" : percent >= 70 ? "high" : "";
  return el("div", {class: "load"},
    el("div", {class: `bar ${level}`, role: "meter", "aria-label": "CPU load", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent}, fill),
    el("span", {class: "soft"}, `CPU ${percent} %`), slot.since ? el("span", {class: "soft up"}, ago(slot.since, "up ", "")) : null);
}

function slotRow(slot) {
  return el("li", {},
    el("span", {class: "number", title: `slot ${slot.slot}`}, slot.slot),
    el("span", {class: "what"}, chip(slot.state, KINDS[slot.state]), slot.version,
      el("span", {class: "mono soft", title: `generation ${slot.generation}, node ${slot.node_id}`}, (slot.generation || "").slice(0, 7)),
      slot.node_id && !slot.registered ? chip("not in the registry", "bad") : null),
    el("span", {class: "count soft"}, `${count(slot.rooms, "room")}, ${slot.participants ?? "?"} in calls`),
    load(slot));
}

function hostCard(h) {
  const neighbours = Object.entries(h.neighbours).map(([unit, how]) => `${unit.replace(/\.service$/, "")} ${how}`).join(", ");
  const free = h.slots.filter((s) => s.state === "free").map((s) => s.slot);
  const used = h.slots.filter((s) => s.state !== "free");
  return el("article", {class: "card"},
    el("header", {}, el("h3", {}, h.host), el("span", {class: "soft mono"}, h.address), h.balancer ? chip(h.balancer.replace("-", " "), "info") : null,
      h.fresh ? null : el("span", {class: "chip bad push"}, ago(h.at, "silent for ", ""))),
    used.length ? el("ul", {class: "slots"}, used.map(slotRow)) : null,
    free.length ? el("p", {class: "soft foot"}, `${free.length === 1 ? "slot" : "slots"} ${free.join(", ")} free`) : null,
    neighbours ? el("p", {class: "soft foot"}, neighbours) : null);
}

const POLICIES = {wait: "waits for the calls to end", move: "calls are moved ", now: "calls are moved now", end: "calls are ended "};

function drainCard(d) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const eta = d.room_count === 0 ? "empty" : d.eta === null ? "unknown" : ago(d.eta, "in ", "");
  return el("article", {class: "card"},
    el("header", {}, el("h3", {}, d.host ? `${d.host} slot ${d.slot}` : d.node_id), chip(d.moving ? "moving" : "draining", d.moving ? "info" : "busy"),
      el("span", {class: "soft mono"}, d.host ? d.node_id : ""), d.since ? el("span", {class: "soft push"}, ago(d.since, "for ", "")) : null),
    el("dl", {class: "facts"}, fact("Rooms", d.room_count), fact("In calls", d.participants), fact("Empty", eta),
      fact("Then", d.deadline ? [POLICIES[d.policy] || `${d.policy} `, ago(d.deadline, "in ", "")] : POLICIES[d.policy] || d.policy)),
    d.blockers.length ? el("p", {class: "notice"}, "Held by ", d.blockers.map((b) => `${b.who} in ${b.room}`).join(", ")) : null,
    d.rooms.length ? el("details", {"data-key": d.node_id}, el("summary", {}, "Rooms, oldest first"),
      el("ul", {class: "lines"}, d.rooms.map((r) => el("li", {}, el("span", {}, r.room), el("span", {class: "soft"}, `${r.participants} in it`), ago(now() - r.age, "", ""))))) : null);
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Demand, what the serving nodes carry, the forecast with its band, and a line where the scaler added or gave back.
function plot(points, changes) {
  const [w, h] = [1000, 220];
  const [begin, end] = [points[0].at, Math.max(...points.map((p) => p.then))];
  const top = 1.08 * Math.max(1e-6, ...points.map((p) => Math.max(p.demand, p.room, p.high)));
  const x = (at) => ((at - begin) / Math.max(60, end - begin) * w).toFixed(1);
  const y = (value) => (h - value / top * h).toFixed(1);
  const line = (rows) => rows.map(([at, value], n) => `${n ? "L" : "M"}${x(at)} ${y(value)}`).join("");
  const steps = points.flatMap((p, n) => (n ? [[p.at, points[n - 1].room], [p.at, p.room]] : [[p.at, p.room]]));
  const band = [...points.map((p) => [p.then, p.high]), ...[...points].reverse().map((p) => [p.then, p.low])];
  const marks = changes.filter((d) => d.at >= begin && d.at <= end).map((d) => svg("line", {class: `mark ${d.action}`, x1: x(d.at), x2: x(d.at), y1: 0, y2: h}));
  return svg("svg", {class: "plot", viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", role: "img", "aria-label": "Demand, room for it, and forecast"},
    svg("path", {class: "band", d: `${line(band)}Z`}), ...marks, svg("path", {class: "room", d: line(steps)}),
    svg("path", {class: "forecast", d: line(points.map((p) => [p.then, p.middle]))}), svg("path", {class: "demand", d: line(points.map((p) => [p.at, p.demand]))}));
}

function scalingCard(data) {
  const [s, changes] = data;
  const per = s.capacity === 1 ? "nodes' worth" : `rooms, ${s.capacity} to a node`;
  return [el("article", {class: "card"},
    el("header", {}, el("h3", {}, `${count(s.have, "node")}${s.size === s.have ? "" : `, ${s.size} to be`}`), s.dry_run ? chip("dry run", "info") : null,
      el("span", {class: "soft"}, `demand ${Number(s.demand).toFixed(s.capacity === 1 ? 2 : 0)} ${per}`)),
    el("p", {class: "soft foot"}, s.reason),
    s.points.length > 1 ? plot(s.points, changes) : null,
    s.points.length > 1 ? el("p", {class: "legend soft"}, ["demand", "room", "forecast"].map((name) => el("span", {class: name}, name)),
      `${new Date(s.points[0].at * 1000).toLocaleTimeString()} to ${new Date(Math.max(...s.points.map((p) => p.then)) * 1000).toLocaleTimeString()}`) : null)];
}

const OUTCOMES = {failed: "bad", dry_run: "info", off: "busy", recover: "good", removed: "good"};
const WHATS = {dead: "bad", freeze: "bad", failed: "bad", error: "bad", recover: "good", move: "info", fence: "busy", odd: "busy", scale: "info"};

function where(d) {
  const rooms = Array.isArray(d.rooms) ? d.rooms : Object.keys(d.rooms || {});
  if (d.kind === "scale") return [d.action, d.count || "", (d.nodes || d.machines || []).join(", ")].filter(Boolean).join(" ");
  const place = d.host ? `${d.host}${d.slot ? ` slot ${d.slot}` : ""}` : "";
  const few = rooms.slice(0, 3).join(", ") + (rooms.length > 3 ? ` and ${rooms.length - 3} more` : "");
  return [place, place ? "" : d.node, few].filter(Boolean).join(" · ");
}

function decisionRow(d) {
  const why = [d.reason === d.kind ? "" : d.reason, (d.signals || []).join("; "), d.seconds ? `${d.seconds} s` : ""].filter(Boolean).join(" — ");
  return el("tr", {}, el("td", {}, ago(d.at)), el("td", {}, chip(d.kind, WHATS[d.kind])), el("td", {}, where(d)), el("td", {}, why),
    el("td", {}, d.outcome ? chip(d.outcome, OUTCOMES[d.outcome]) : ""), el("td", {class: "soft"}, d.by));
}

function show(s) {
  state = s;
  if (!s.frozen || !heard) offset = s.at - Date.now() / 1000; // a frozen state is an old one
  heard = Date.now();
  section("notices", [s.frozen, s.self.dry_run, s.controllers.map((c) => [c.leader, c.alive, c.dry_run])], () => notices(s));
  section("totals", s.totals, totals);
  byId("drains-section").hidden = !s.drains.length;
  section("drains", s.drains.map((d) => ({...d, eta: d.eta && Math.round(d.eta / 15) * 15, rooms: d.rooms.map((r) => ({...r, age: Math.round((s.at - r.age) / 5)}))})),
    () => s.drains.map(drainCard));
  byId("scaling-section").hidden = !s.scaling;
  if (s.scaling) {
    const changes = s.decisions.filter((d) => d.kind === "scale" && (d.action === "add" || d.action === "retire")).map((d) => ({at: d.at, action: d.action}));
    section("scaling", [{...s.scaling, at: 0}, changes], scalingCard);
  }
  byId("moves-section").hidden = !s.moves.length;
  section("moves", s.moves, (all) => all.map((m) => el("li", {}, chip(m.kind, "info"), m.host ? `${m.host} slot ${m.slot}` : "", el("span", {class: "soft"},
    `${m.cut} of ${count(m.rooms, "room")} sent on${m.reason ? `, ${m.reason}` : ""}, by ${m.by}`), ago(m.at))));
  section("hosts", s.hosts.map((h) => ({...h, age: h.fresh, at: h.fresh || Math.round(s.at - h.age)})), () => s.hosts.length
    ? [...s.hosts].sort((a, b) => (b.slots.length > 0) - (a.slots.length > 0)).map((h) => hostCard({...h, at: s.at - h.age})) : [el("p", {class: "empty"}, "No host has reported yet.")]);
  section("strays", s.strays.map((n) => [n.node_id, n.fresh, n.rooms]), () => s.strays.map((n) => el("p", {class: "notice bad"},
    `${n.node_id} (${n.ip}) is in the registry, but no host reports it${n.fresh ? "" : `; silent for ${span(n.age)}`}. It has ${count(n.rooms, "room")}.`)));
  section("decisions", s.decisions, (all) => all.length ? all.map(decisionRow) : [el("tr", {}, el("td", {colspan: 6, class: "empty"}, "None yet."))]);
  section("controllers", s.controllers.map((c) => [c.name, c.leader, c.dry_run, c.alive]), () => s.controllers.map((c) => el("li", {}, el("strong", {}, c.name),
    c.alive ? chip(c.leader ? "leads" : "follows", c.leader ? "good" : "") : chip("silent", "bad"), c.dry_run ? chip("dry run", "info") : null,
    c.name === s.self.name ? el("span", {class: "soft"}, "shows this page") : null, c.alive ? null : ago(s.at - c.age, "for ", ""))));
  byId("events-section").hidden = !s.events.length;
  section("events", s.events.slice(0, 10), (all) => all.map((e) => el("li", {}, el("span", {}, String(e.event).replace(/_/g, " ")),
    el("span", {class: "soft"}, [e.who, e.room].filter(Boolean).join(" in ")), e.at ? ago(e.at) : null)));
  document.title = `${s.frozen ? "Frozen" : `${s.totals.participants} in calls`} · LiveKit cluster`;
  refresh();
}

const source = new EventSource("events");
source.onmessage = (event) => show(JSON.parse(event.data));
setInterval(refresh, 1000);
