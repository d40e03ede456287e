# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for LiveKit's egress, ingress or an agent, whose binaries a lab without their release hosts cannot have.

It does what the real ones do when they are told to stop (livekit/egress and livekit/ingress, cmd/server/main.go): the first SIGTERM or
SIGQUIT ends the taking of new work, what is under way is finished, however long it takes, and then the process exits; later
signals are swallowed; SIGINT as the first one drops the work at once. The health port answers like theirs. It records no media.

    python3 neighbour.py --kind egress --work 4 --log /run/egress.log [--port 9091]

--work: seconds of work that are left when it is told to stop. --log: one line "<unix time> <what>" for started, SIGTERM and done.
"""
from __future__ import annotations

import argparse
import http.server
import json
import signal
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["agent", "egress", "ingress", "sip"], required=True)
    parser.add_argument("--work", type=float, default=4.0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    first: list[int] = []
    told = threading.Event()

    def note(what: str) -> None:
        with open(args.log, "a", encoding="utf-8") as log:
            log.write(f"{time.time():.2f} {what}\n")

    def hear(number: int, dummy: object) -> None:
        if not first:
            first.append(number)
            note(signal.Signals(number).name)
            told.set()

    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, hear)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refuses = args.kind == "ingress" and self.path == "/availability" and bool(first)
            self.send_response(503 if refuses else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"CpuLoad": 1}).encode() if args.kind == "egress" else b"Healthy")

        def log_message(self, *dummy: object) -> None:
            """Nothing."""

    if args.port:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    note("started")
    while not told.wait(1.0):
        pass
    if first[0] != signal.SIGINT:
        time.sleep(args.work)
    note("done")


if __name__ == "__main__":
    main()
