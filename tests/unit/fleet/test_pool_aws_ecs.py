# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool aws_ecs, through boto3 against a fake of the HTTP interface of ECS: moto's services start no tasks and know no protection."""
from __future__ import annotations

import copy
import http.server
import json
import threading
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import ENDING, load
from pool_conformance import Conformance, code, ids

ARN = "arn:aws:ecs:eu-west-1:123456789012"


class Ecs:
    """A cluster with one service. A smaller count stops tasks that are not protected, the oldest first; as the real one it stops none beyond these."""

    def __init__(self, quota=6):
        self.tasks, self.tags, self.count, self.number, self.quota = {}, {}, 0, 0, quota
        self.held, self.down, self.deaf = False, False, False
        self.scale(3)
        self.settle()

    def scale(self, count):
        self.count = count
        live = [i for i, task in self.tasks.items() if task["desiredStatus"] == "RUNNING"]
        for name in [i for i in live if not self.tasks[i]["protected"]][:max(0, len(live) - count)]:
            self.tasks[name].update(desiredStatus="STOPPED", lastStatus="DEACTIVATING")
        for _more in range(count - len(live)):
            self.number += 1
            name = f"{self.number:032x}"
            address = [{"name": "privateIPv4Address", "value": f"10.0.0.{self.number}"}]
            self.tasks[name] = {"taskArn": f"{ARN}:task/c/{name}", "lastStatus": "PROVISIONING", "desiredStatus": "RUNNING", "protected": False,
                                "createdAt": time.time(), "attachments": [{"type": "ElasticNetworkInterface", "details": address}]}

    def settle(self):
        for name, task in list(self.tasks.items()):
            if task["desiredStatus"] == "STOPPED":
                del self.tasks[name]
            elif not self.held:
                task["lastStatus"] = "RUNNING"

    def do(self, what, asked):
        if what == "DescribeServices":
            known = asked["services"] == ["livekit"]
            row = {"serviceArn": f"{ARN}:service/c/livekit", "serviceName": "livekit", "status": "ACTIVE", "desiredCount": self.count,
                   "tags": [{"key": k, "value": v} for k, v in self.tags.items()]}
            return {"services": [row], "failures": []} if known else {"services": [], "failures": [{"arn": "livekti", "reason": "MISSING"}]}
        if what == "ListTasks":  # two on a page, to have several
            arns = sorted(t["taskArn"] for t in self.tasks.values() if t["desiredStatus"] == asked.get("desiredStatus", "RUNNING"))
            begin = int(asked.get("nextToken") or 0)
            return {"taskArns": arns[begin:begin + 2], **({"nextToken": str(begin + 2)} if begin + 2 < len(arns) else {})}
        if what == "DescribeTasks":
            found = [self.tasks[a.rpartition("/")[2]] for a in asked["tasks"] if a.rpartition("/")[2] in self.tasks]
            return {"tasks": [{k: v for k, v in task.items() if k != "protected"} for task in found], "failures": []}
        if what == "TagResource":
            self.tags.update({tag["key"]: tag["value"] for tag in asked["tags"]})
            return {}
        if what == "UpdateTaskProtection":
            for name in asked["tasks"]:
                self.tasks[name]["protected"] = asked["protectionEnabled"]
            return {"protectedTasks": [], "failures": []}
        if asked["desiredCount"] > self.quota:
            raise ValueError("LimitExceededException")
        self.scale(asked["desiredCount"])
        return {"service": {}}


@pytest.fixture(scope="module")
def pool():
    """One for all tests, as making a client takes long. Its server asks whatever is in `server.ecs`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            made, what = self.server.ecs, self.headers["X-Amz-Target"].rpartition(".")[2]
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = 200, {}
            if made.down:
                status, answer = 503, {"__type": "ServiceUnavailable"}
            else:
                try:
                    answer = made.do(what, asked)
                except ValueError as exc:
                    status, answer = 400, {"__type": str(exc), "message": "no more tasks in this account"}
            if made.deaf and what == "UpdateService":
                made.deaf, status, answer = False, 400, {"__type": "ServerException", "message": "lost"}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        made = load({"kind": "aws_ecs", "cluster": "c", "service": "livekit", "region": "eu-west-1",
                     "endpoint": f"http://127.0.0.1:{server.server_port}"}, None, None)
        made.server = server
        yield made
    server.shutdown()
    server.server_close()


class World:
    room, stranger, away = 3, "f" * 32, ("pool_unreachable",)

    def __init__(self, ecs, pool):
        self.ecs, self.pool = ecs, copy.copy(pool)

    def who(self):
        return set(self.ecs.tasks)

    def settle(self):
        self.ecs.settle()

    def hold(self):
        self.ecs.held = True

    def lose(self, name):
        self.ecs.tasks[name].update(desiredStatus="STOPPED", lastStatus="STOPPED")

    def cut(self):
        self.ecs.down = True

    def mend(self):
        self.ecs.down = False

    def deaf(self):
        self.ecs.deaf = True


@pytest.fixture
def world(pool):
    pool.server.ecs = Ecs()
    return World(pool.server.ecs, pool)


class TestAwsEcs(Conformance):
    pass


def test_the_others_are_protected_while_one_goes(world):
    first, second, third = sorted(world.who())
    world.pool.retire([third])
    assert [world.ecs.tasks[i]["protected"] for i in (first, second)] == [True, True]
    assert world.ecs.tasks[third]["desiredStatus"] == "STOPPED"
    assert {m.id: m.address for m in world.pool.machines()}[first] == "10.0.0.1"


def test_a_task_that_ecs_takes_is_ending(world):
    ecs = world.ecs
    name = sorted(world.who())[0]
    ecs.tasks[name].update(lastStatus="DEACTIVATING", desiredStatus="STOPPED")
    assert {m.id: m.state for m in world.pool.machines()}[name] == ENDING
    assert world.pool.retire([name]) == [] and name in ids(world) and ecs.count == 3


def test_a_service_that_is_not_there_is_told(world):
    world.pool.service = "livekti"
    assert code(world.pool.machines) == code(world.pool.size) == "pool_refused"
