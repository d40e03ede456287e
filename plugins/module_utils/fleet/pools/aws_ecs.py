# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service of ECS. It cannot be told which task to stop, so all tasks but those that go are protected from scale-in, and then its count is lowered.

A protection ends after two days at most and is renewed by each retire(). Fargate kills a task 120 seconds after it was told to stop, whatever its
calls; a task that ECS itself takes shows as ending, and the scaler moves its calls away within that time.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from ..errors import FleetError
from . import aws
from .base import ENDING, ORDERED, RUNNING, Base, Machine, check_count, option

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

ORDER = "openrtc:order"  # tag of the service: "word target" of the last order
PROTECT_MINUTES = 2880
BATCH = 10  # tasks that can be protected in one call
STATES = {"PROVISIONING": ORDERED, "PENDING": ORDERED, "ACTIVATING": ORDERED, "RUNNING": RUNNING}


class AwsEcs(Base):
    """cluster, service: their names. A task has no inventory name; it is found by its private address."""

    name, takes_away, poll = "aws_ecs", True, 5.0

    def __init__(self, cluster: str, service: str, region: str = "", endpoint: str = "") -> None:
        self.cluster, self.service = cluster, service
        self.ecs = aws.client("ecs", region, endpoint)

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> AwsEcs:
        return cls(**option("aws_ecs", settings, {"cluster": "", "service": "", "region": "", "endpoint": ""}, ("cluster", "service")))

    def _ask(self, tried: str, call: t.Callable[..., t.Any], **args: t.Any) -> dict[str, t.Any]:
        found = aws.ask(tried, f"{self.cluster}/{self.service}", call, cluster=self.cluster, **args)
        failed = [f for f in found.get("failures", ()) if f.get("reason") != "MISSING"]
        if failed:
            raise FleetError(tried, f"{self.cluster}/{self.service}", "; ".join(f"{f.get('arn')}: {f.get('reason')}" for f in failed),
                             "It is tried again at the next look", code="pool_refused")
        return found

    def _service(self) -> dict[str, t.Any]:
        found = self._ask("read a service", self.ecs.describe_services, services=[self.service], include=["TAGS"])
        active = [s for s in found["services"] if s["status"] == "ACTIVE"]
        if not active:
            raise FleetError("read a service", f"{self.cluster}/{self.service}", "there is no such service in this region",
                             "Correct cluster, service and region in livekit_scaling.pool", code="pool_refused")
        return dict(active[0])

    def machines(self) -> list[Machine]:
        self._service()  # a name that is wrong must not look like a service without tasks
        # Tasks that were told to stop are listed apart, for an hour.
        arns = [*self._list("RUNNING"), *self._list("STOPPED")]
        tasks: list[dict[str, t.Any]] = []
        for some in aws.pages(arns):
            tasks += self._ask("read tasks", self.ecs.describe_tasks, tasks=some)["tasks"]
        return sorted(_machine(task) for task in tasks if task["lastStatus"] not in ("STOPPED", "DELETED"))

    def _list(self, wanted: str) -> list[str]:
        arns: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._ask("list tasks", self.ecs.list_tasks, serviceName=self.service, desiredStatus=wanted, **more)
            arns += page["taskArns"]
            if not page.get("nextToken"):
                return arns
            more = {"nextToken": page["nextToken"]}

    def size(self) -> int:
        return int(self._service()["desiredCount"])

    def add(self, count: int, order: str = "") -> list[str]:
        """The order and its target are noted before the count is changed, so that repeating it leads to the same count."""
        check_count(count)
        service = self._service()
        noted = next((tag["value"] for tag in service.get("tags", ()) if tag["key"] == ORDER), "").split()
        target = int(noted[1]) if order and len(noted) == 2 and noted[0] == order and noted[1].isdigit() else service["desiredCount"] + count
        if target > service["desiredCount"]:
            aws.ask("note an order", self.service, self.ecs.tag_resource, resourceArn=service["serviceArn"],
                    tags=[{"key": ORDER, "value": f"{order} {target}"}])
            self._ask("add tasks", self.ecs.update_service, service=self.service, desiredCount=target)
        return []

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        live = [m.id for m in self.machines() if m.state != ENDING]
        leaving = [i for i in ids if i in live]
        if not leaving:
            return []
        self._protect([i for i in live if i not in leaving], True)
        self._protect(leaving, False)
        self._ask("lower the count of a service", self.ecs.update_service, service=self.service, desiredCount=max(0, self.size() - len(leaving)))
        return leaving

    def _protect(self, ids: t.Sequence[str], on: bool) -> None:
        more = {"expiresInMinutes": PROTECT_MINUTES} if on else {}
        for begin in range(0, len(ids), BATCH):
            self._ask("protect tasks", self.ecs.update_task_protection, tasks=list(ids[begin:begin + BATCH]), protectionEnabled=on, **more)


def _machine(task: t.Mapping[str, t.Any]) -> Machine:
    state = ENDING if task.get("desiredStatus") == "STOPPED" else STATES.get(task["lastStatus"], ENDING)
    details = {d["name"]: d["value"] for a in task.get("attachments", ()) for d in a.get("details", ())}
    since = task["createdAt"].timestamp() if task.get("createdAt") else 0.0
    return Machine(task["taskArn"].rpartition("/")[2], state, address=details.get("privateIPv4Address", ""), since=since)
