# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Auto Scaling group whose policies are switched off: we say how large it is and which instance goes.

Protect new instances from scale-in, so that the group chooses none by itself. What it takes all the same (a zone is evened out, a health check
failed, somebody lowered its size) waits in its lifecycle hook: the scaler moves the calls away, then retire() lets it go on.

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

ORDER = "openrtc:order"  # tag of the group: "word target" of the last order
PROTECTED = "openrtc:protected"  # tag of an instance that is never to be given back
GONE = ("Terminated", "Detaching", "Detached")
WAITS = "Terminating:Wait"


class AwsAsg(Base):
    """group: its name; hook: its lifecycle hook for terminating instances; host_tag: the tag that holds an instance's inventory name."""

    name, takes_away, poll = "aws_asg", True, 5.0

    def __init__(self, group: str, region: str = "", hook: str = "", host_tag: str = "Name", endpoint: str = "") -> None:
        self.group, self.hook, self.host_tag = group, hook, host_tag
        self.scaling, self.ec2 = aws.client("autoscaling", region, endpoint), aws.client("ec2", region, endpoint)

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> AwsAsg:
        return cls(**option("aws_asg", settings, {"group": "", "region": "", "hook": "", "host_tag": "Name", "endpoint": ""}, ("group",)))

    def _group(self) -> dict[str, t.Any]:
        found = aws.ask("read an Auto Scaling group", self.group, self.scaling.describe_auto_scaling_groups, AutoScalingGroupNames=[self.group])
        if not found["AutoScalingGroups"]:
            raise FleetError("read an Auto Scaling group", self.group, "there is no such group in this region",
                             "Correct group and region in livekit_scaling.pool", code="pool_refused")
        return dict(found["AutoScalingGroups"][0])

    def machines(self) -> list[Machine]:
        rows = {i["InstanceId"]: i["LifecycleState"] for i in self._group()["Instances"] if i["LifecycleState"] not in GONE}
        about = self._about(sorted(rows))
        return [self._machine(i, rows[i], about.get(i, {})) for i in sorted(rows)]

    def _about(self, ids: t.Sequence[str]) -> dict[str, dict[str, t.Any]]:
        found: dict[str, dict[str, t.Any]] = {}
        for page in aws.pages(ids):
            answer = aws.ask("read instances", self.group, self.ec2.describe_instances, Filters=[{"Name": "instance-id", "Values": page}])
            found.update({i["InstanceId"]: i for reservation in answer["Reservations"] for i in reservation["Instances"]})
        return found

    def _machine(self, name: str, state: str, about: t.Mapping[str, t.Any]) -> Machine:
        tags = {tag["Key"]: tag["Value"] for tag in about.get("Tags", ())}
        known = RUNNING if state in ("InService", "Standby", "EnteringStandby") else ORDERED if state.startswith(("Pending", "Warmed")) else ENDING
        if about.get("State", {}).get("Name") in ("shutting-down", "terminated", "stopping", "stopped"):
            known = ENDING  # the group notices later
        since = about["LaunchTime"].timestamp() if about.get("LaunchTime") else 0.0
        return Machine(name, known, tags.get(self.host_tag, ""), about.get("PrivateIpAddress") or "", since=since, protected=PROTECTED in tags)

    def size(self) -> int:
        return int(self._group()["DesiredCapacity"])

    def add(self, count: int, order: str = "") -> list[str]:
        """The order and its target are noted before the size is changed, so that repeating it leads to the same size."""
        check_count(count)
        group = self._group()
        noted = next((tag["Value"] for tag in group["Tags"] if tag["Key"] == ORDER), "").split()
        target = int(noted[1]) if order and len(noted) == 2 and noted[0] == order and noted[1].isdigit() else group["DesiredCapacity"] + count
        if target > group["MaxSize"]:
            raise FleetError("add instances", self.group, f"{target} would be more than its MaxSize {group['MaxSize']}", "Raise MaxSize, or lower limits.max",
                             code="pool_full")
        if target > group["DesiredCapacity"]:
            tag = {"ResourceId": self.group, "ResourceType": "auto-scaling-group", "Key": ORDER, "Value": f"{order} {target}", "PropagateAtLaunch": False}
            aws.ask("note an order", self.group, self.scaling.create_or_update_tags, Tags=[tag])
            aws.ask("add instances", self.group, self.scaling.set_desired_capacity, AutoScalingGroupName=self.group, DesiredCapacity=target,
                    HonorCooldown=False)
        return []

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        states = {i["InstanceId"]: i["LifecycleState"] for i in self._group()["Instances"]}
        gone = []
        for name in ids:
            state = states.get(name, "Terminated")
            if state == WAITS and self.hook:
                aws.ask("let an instance go", name, self.scaling.complete_lifecycle_action, AutoScalingGroupName=self.group, LifecycleHookName=self.hook,
                        InstanceId=name, LifecycleActionResult="CONTINUE")
                gone.append(name)
            elif state not in GONE and not state.startswith("Terminating"):
                aws.ask("give an instance back", name, self.scaling.terminate_instance_in_auto_scaling_group, InstanceId=name,
                        ShouldDecrementDesiredCapacity=True)
                gone.append(name)
        return gone
