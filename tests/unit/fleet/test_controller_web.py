# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller over HTTP: who may see what, webhooks with and without a right to be heard, and the page in a browser."""
from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pathlib
import shutil
import time
import typing as t
import urllib.error
import urllib.request

import jwt
import pytest
from controller_sample import KEYS, PASSWORD, cluster, registry, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import eta, scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import lease, webhook
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.lease import Lease
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.loop import Loop
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.metrics import Metrics
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.web import Web, digest

EVIL = "</script><img src=x onerror=\"document.title='taken'\">"


class Site:
    """A controller's web on a port, and requests to it."""

    def __init__(self, server: t.Any, serve: t.Callable[..., str], **more: t.Any) -> None:
        self.server = server
        self.settings = settings(server, **more)
        self.lease = Lease(registry(server), "edge1")
        self.lease.step()
        self.lease.until += 600  # however slow the machine is
        self.loop = Loop(self.settings, self.lease, lambda: registry(server), lambda entry: None)
        self.loop.tick()
        self.web = Web(self.settings, self.loop, registry(server), Metrics())
        self.url = serve(self.web.app())

    def get(self, path: str, user: str | None = "admin", password: str = PASSWORD, data: bytes | None = None, **headers: str) -> tuple[int, t.Any, bytes]:
        if user is not None:
            headers.setdefault("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.headers, exc.read()

    def post(self, event: t.Any, key: str = "APItest", secret: str | None = None, body: bytes | None = None, **claims: t.Any) -> int:
        """A webhook, signed as LiveKit does; body: what is sent in place of what was signed."""
        signed = json.dumps(event).encode()
        values = {"iss": key, "nbf": int(time.time()), "exp": int(time.time()) + 300, "sha256": base64.b64encode(hashlib.sha256(signed).digest()).decode()}
        token = jwt.encode({**values, **claims}, secret or KEYS.get(key, "x" * 40), algorithm="HS256")
        return self.get("/webhook", None, data=signed if body is None else body, Authorization=token)[0]

    def status(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", json.loads(self.get("/api/status")[2]))


@pytest.fixture
def site(redis_server: t.Callable[..., t.Any], serve: t.Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> t.Iterator[t.Callable[..., Site]]:
    made: list[Site] = []

    monkeypatch.setattr(lease, "YOUNG", 0.0)  # the sample's other controller is no reason to wait

    def build(**more: t.Any) -> Site:
        server = redis_server()
        cluster(server)
        made.append(Site(server, serve, **more))
        return made[-1]

    yield build
    for one in made:
        one.web.close()
        one.loop.probes.close()


# -- who may ---------------------------------------------------------------------------------------------------------


def test_only_health_and_metrics_go_without_password(site: t.Callable[..., Site]) -> None:
    one = site()
    for path in ("/", "/page.js", "/page.css", "/api/status", "/events", "/nothing"):
        status, headers, _body = one.get(path, None)
        assert (status, headers["WWW-Authenticate"].split()[0]) == (401, "Basic"), path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    for user, password in (("admin", "wrong"), ("root", PASSWORD), ("", ""), ("admin:", "x"), ("ädmin", "pässword")):
        assert one.get("/api/status", user, password)[0] == 401
    for odd in ("Basic !!!", "Bearer abc", "Basic", "x" * 4000):
        assert one.get("/", None, Authorization=odd)[0] == 401
    status, headers, body = one.get("/")
    assert (status, headers["Cache-Control"], headers["X-Content-Type-Options"]) == (200, "no-store", "nosniff")
    assert b"page.js" in body and b"http:" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert one.get("/healthz", None)[0] == one.get("/metrics", None)[0] == 200


def test_nothing_can_be_changed_through_it(site: t.Callable[..., Site]) -> None:
    one = site()
    before = one.server.dump()
    for path in ("/", "/api/status", "/events", "/healthz", "/metrics"):
        assert one.get(path, data=b"{}")[0] == 405
    one.status()
    after = one.server.dump()
    assert before == after


def test_without_password_there_is_no_page(site: t.Callable[..., Site]) -> None:
    one = site(password_sha256="", page="/nowhere")
    assert [one.get(path, None)[0] for path in ("/", "/api/status", "/events", "/healthz", "/metrics")] == [404, 404, 404, 200, 200]


def test_the_digest_is_that_of_the_role() -> None:
    tasks = (pathlib.Path(__file__).parents[3] / "roles/controller/vars/main.yml").read_text()
    assert "'openrtc.livekit:' ~ livekit_controller_user ~ ':' ~ livekit_controller_password" in tasks and "hash('sha256')" in tasks
    assert digest("u", "p") == hashlib.sha256(b"openrtc.livekit:u:p").hexdigest()


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_status_tells_of_the_scaler(site: t.Callable[..., Site]) -> None:
    one = site()
    assert one.web._read() is None and one.web._status["scaling"] is None
    client = one.server.client
    client.set(scaler.STATUS, json.dumps({"at": 1e9, "have": 3, "size": 4, "dry_run": False, "demand": 61.0, "capacity": 20.0, "serving": 3, "draining": 0,
                                          "actions": [{"reason": "headroom: 61 now"}], "members": [{"id": "a"}]}))
    rows = [{"at": 60.0 * n, "demand": n, "serving": 3, "capacity": 20.0, "ahead": 30, "low": 1, "middle": 2, "high": 3} for n in range(400)]
    client.rpush(scaler.HISTORY, *[json.dumps(row) for row in reversed(rows)])
    one.web._status_at = 0.0
    found = one.status()["scaling"]
    assert (found["have"], found["size"], found["reason"], len(found["points"])) == (3, 4, "headroom: 61 now", 120)
    last = found["points"][-1]
    assert (last["at"], last["demand"], last["room"], last["then"]) == (60.0 * 399, 399, 60.0, 60.0 * 429) and "members" not in found


def test_status(site: t.Callable[..., Site]) -> None:
    found = site().status()
    assert found["totals"] == {"hosts": 3, "serving": 3, "draining": 1, "rooms": 25, "participants": 101, "versions": ["1.13.4", "1.13.5"]}
    assert [h["host"] for h in found["hosts"]] == ["edge1", "edge2", "sfu1", "sfu2", "sfu3"]
    assert found["hosts"][2]["slots"][0]["state"] == "draining"
    (one,) = found["drains"]
    assert (one["host"], one["slot"], one["policy"], one["room_count"], one["participants"]) == ("sfu1", 1, "move", 3, 10)
    assert one["blockers"] == [{"room": "support-call-4711", "who": "SIP +49 30 1234"}]
    assert one["eta"] > found["at"] + 600
    assert [r["room"] for r in one["rooms"]] == ["weekly-planning", "interview <b>Ada</b>", "support-call-4711"]
    assert [(c["name"], c["leader"]) for c in found["controllers"]] == [("edge1", True), ("edge2", False)]
    assert found["self"] == {"name": "edge1", "leader": True, "frozen": "", "dry_run": False}
    assert found["decisions"] and not found["strays"]


def test_health_metrics_and_a_redis_that_went_away(site: t.Callable[..., Site]) -> None:
    one = site()
    assert json.loads(one.get("/healthz", None)[2]) == {"ok": True, "name": "edge1", "leader": True, "frozen": "", "dry_run": False}
    one.status()
    one.server.stop()
    one.loop.tick()
    body = one.get("/metrics", None)[2].decode()
    for line in ("openrtc_controller_frozen 1.0", "openrtc_controller_leader 1.0"):
        assert line in body
    assert "Redis cannot be asked" in json.loads(one.get("/healthz", None)[2])["frozen"]
    found = one.status()
    assert found["frozen"] and found["totals"]["rooms"] == 25  # what was known last
    one.loop.ticked -= 60
    assert one.get("/healthz", None)[0] == 503


def test_metrics(site: t.Callable[..., Site]) -> None:
    one = site()
    one.web.metrics.decision({"kind": "recover"})
    one.web.metrics.timed("recover", 0.3)
    body = one.get("/metrics", None)[2].decode()
    for line in ('openrtc_nodes{state="serving"} 3.0', 'openrtc_nodes{state="draining"} 1.0', "openrtc_rooms 25.0", "openrtc_participants 101.0",
                 "openrtc_drains 1.0", 'openrtc_controller_decisions_total{kind="recover",outcome="done"} 1.0',
                 'openrtc_controller_action_seconds_count{kind="recover"} 1.0', "openrtc_controller_frozen 0.0"):
        assert line in body, line


def test_events_stream(site: t.Callable[..., Site]) -> None:
    one = site()
    request = urllib.request.Request(one.url + "/events", headers={"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        states = []
        while len(states) < 2:
            line = answer.readline()
            if line.startswith(b"data: "):
                states.append(json.loads(line[6:]))
    assert states[0]["totals"]["rooms"] == 25


# -- webhooks --------------------------------------------------------------------------------------------------------


def event(kind: str = "room_finished", number: str = "EV_1", **more: t.Any) -> dict[str, t.Any]:
    return {"event": kind, "id": number, "createdAt": "2000", "room": {"name": EVIL, "creationTime": "1400"}, **more}


def test_webhooks_are_taken_once_in_any_order(site: t.Callable[..., Site]) -> None:
    one = site()
    one.server.client.delete(eta.DURATIONS, webhook.EVENTS)
    assert one.post(event()) == one.post(event()) == 200
    assert one.post(event("room_started", "EV_2"), key="APInext") == 200
    assert one.post(event("participant_left", "EV_3", participant={"identity": "ada"})) == 200
    assert one.post(event("track_published", "EV_4")) == 200
    assert one.post(event(number="EV_6", room={"name": "probe-0123456789abcdef", "creationTime": "1990"})) == 200
    assert one.post(event("room_finished", "EV_5", createdAt="nonsense", room=None)) == 200
    with registry(one.server) as found:
        assert eta.durations(found) == [600.0]
    assert [e["event"] for e in one.status()["events"]] == ["room_finished", "participant_left", "room_started", "room_finished"]
    body = one.get("/metrics", None)[2].decode()
    assert 'webhook_events_total{event="room_finished",outcome="known"} 1.0' in body


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "z" * 40}, {"key": "APIother"}, {"body": b'{"event": "room_finished"}'}, {"exp": int(time.time()) - 900},
        {"nbf": int(time.time()) + 3600}, {"sha256": "x"}, {"sha256": None}, {"exp": "soon"},
    ],
)
def test_a_webhook_without_the_right_signature_is_refused(site: t.Callable[..., Site], forged: dict[str, t.Any]) -> None:
    one = site()
    before = one.server.dump()
    try:
        assert one.post(event(), **forged) == 401
    except (TypeError, jwt.PyJWTError):
        assert forged == {"exp": "soon"}  # the library would not even sign it
    assert one.server.dump() == before


def test_other_ways_to_forge_a_webhook(site: t.Callable[..., Site]) -> None:
    one = site()
    body = json.dumps(event()).encode()
    claims = {"iss": "APItest", "exp": int(time.time()) + 60, "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode()}
    unsigned = jwt.encode(claims, None, algorithm="none")
    strong = jwt.encode(claims, KEYS["APItest"], algorithm="HS512")
    endless = jwt.encode({k: v for k, v in claims.items() if k != "exp"}, KEYS["APItest"], algorithm="HS256")
    for token in (unsigned, strong, endless, "", "a.b.c", "Bearer x", "x" * 3000):
        assert one.get("/webhook", None, data=body, Authorization=token)[0] == 401, token
    assert one.get("/webhook", None)[0] == 405
    assert one.get("/webhook", None, data=b"x" * (webhook.KEEP + (1 << 20)), Authorization="x")[0] == 413


def test_clocks_may_differ_by_a_minute(site: t.Callable[..., Site]) -> None:
    one = site()
    assert one.post(event(number="EV_a"), exp=int(time.time()) - 50) == 200
    assert one.post(event(number="EV_b"), nbf=int(time.time()) + 50) == 200


def test_webhooks_can_be_switched_off_and_wait_for_redis(site: t.Callable[..., Site]) -> None:
    assert site(webhook=False).post(event()) == 404
    one = site()
    one.server.stop()
    assert one.post(event()) == 503


# -- the page in a browser -------------------------------------------------------------------------------------------


@pytest.fixture
def open_page() -> t.Iterator[t.Callable[..., tuple[t.Any, list[str]]]]:
    """open(url, width) -> the page and, as they come, its errors. Started late: playwright's event loop would be in the way of the site's."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium here")
    with contextlib.ExitStack() as stack:

        def start(url: str, width: int = 1280) -> tuple[t.Any, list[str]]:
            browser = stack.enter_context(playwright.sync_playwright()).chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            stack.callback(browser.close)
            context = browser.new_context(viewport={"width": width, "height": 900}, http_credentials={"username": "admin", "password": PASSWORD})
            page, problems = context.new_page(), []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(url)
            page.wait_for_selector("#hosts .card")
            return page, problems

        yield start


def test_the_page_shows_the_cluster_and_takes_names_for_text(site: t.Callable[..., Site], open_page: t.Callable[..., t.Any]) -> None:
    one = site()
    one.server.add_room(EVIL, "ND_old1", creation_time=int(time.time() - 60))
    one.server.add_participant(EVIL, EVIL, kind=3)
    one.loop.tick()
    page, problems = open_page(one.url)
    assert page.locator("#hosts .card").count() == 5
    assert page.locator("#totals dd").all_inner_texts() == ["3", "1", "26", "101", "1.13.4, 1.13.5"]
    page.get_by_text("Rooms, oldest first").click()
    assert page.get_by_text(EVIL, exact=True).is_visible()
    assert f"SIP {EVIL} in {EVIL}" in page.locator("#drains").inner_text()
    page.wait_for_timeout(1500)  # what was opened stays open over the next states
    assert page.get_by_text(EVIL, exact=True).is_visible()
    assert "taken" not in page.title() and page.locator("main img").count() == 0
    assert not problems


def test_the_page_fits_a_phone_and_says_when_it_is_late(site: t.Callable[..., Site], open_page: t.Callable[..., t.Any]) -> None:
    one = site()
    page, problems = open_page(one.url, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#link-text").inner_text() == "live"
    one.server.stop()
    one.loop.tick()
    page.get_by_text("Frozen: Redis cannot be asked").wait_for(timeout=8000)
    one.web.close()  # the controller is gone
    page.get_by_text("no news for").wait_for(timeout=15000)
    assert "stale" in (page.locator("body").get_attribute("class") or "")
    assert not [p for p in problems if "Failed to load resource" not in p and "ERR_" not in p]
