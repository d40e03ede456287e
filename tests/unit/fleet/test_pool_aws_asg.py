# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool aws_asg, through boto3 against moto's server. moto starts instances at once and knows no lifecycle hooks: these are played."""
from __future__ import annotations

import copy

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import ENDING, load
from moto.server import ThreadedMotoServer
from pool_conformance import Conformance, code, ids

REGION = "eu-west-1"
IMAGE = "ami-12c6146b"  # one that moto knows


@pytest.fixture(scope="module")
def pools():
    """One on moto's server and one on nothing: making clients takes long."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"kind": "aws_asg", "group": "livekit", "region": REGION, "hook": "drain"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        yield load({**settings, "endpoint": f"http://{host}:{port}"}, None, None), load({**settings, "endpoint": "http://127.0.0.1:9"}, None, None)
    server.stop()


class World:
    """Three instances of at most six. What is put in the way of the API ends with the test."""

    room, stranger, away = 3, "i-00000000000000000", ("pool_unreachable",)

    def __init__(self, pools, patch):
        self.real, self.dead = pools
        self.pool, self.patch = copy.copy(self.real), patch
        self.scaling, self.ec2 = self.pool.scaling, self.pool.ec2
        self.scaling.create_launch_configuration(LaunchConfigurationName="livekit", ImageId=IMAGE, InstanceType="c7i.large")
        self.scaling.create_auto_scaling_group(AutoScalingGroupName="livekit", LaunchConfigurationName="livekit", MinSize=0, MaxSize=6, DesiredCapacity=3,
                                               AvailabilityZones=[f"{REGION}a"], NewInstancesProtectedFromScaleIn=True)

    def remove(self):
        self.scaling.delete_auto_scaling_group(AutoScalingGroupName="livekit", ForceDelete=True)
        self.scaling.delete_launch_configuration(LaunchConfigurationName="livekit")

    def who(self):
        return {i["InstanceId"] for i in self.scaling.describe_auto_scaling_groups()["AutoScalingGroups"][0]["Instances"]}

    def settle(self):
        pass

    def played(self, state, names=None):
        """The API as if these instances (None: those that come from now on) were in that state."""
        before, real = self.who(), self.scaling.describe_auto_scaling_groups

        def describe(**args):
            answer = real(**args)
            for row in answer["AutoScalingGroups"][0]["Instances"]:
                if row["InstanceId"] in (names or ()) or names is None and row["InstanceId"] not in before:
                    row["LifecycleState"] = state
            return answer

        self.patch.setattr(self.scaling, "describe_auto_scaling_groups", describe)

    def hold(self):
        self.played("Pending:Wait")

    def lose(self, name):
        self.ec2.terminate_instances(InstanceIds=[name])

    def cut(self):
        self.pool.scaling, self.pool.ec2 = self.dead.scaling, self.dead.ec2

    def mend(self):
        self.pool.scaling, self.pool.ec2 = self.real.scaling, self.real.ec2

    def deaf(self):
        real, calls = self.scaling.set_desired_capacity, []

        def lost(**args):
            real(**args)
            calls.append(args)
            if len(calls) == 1:
                raise self.error("RequestTimeout", "lost")

        self.patch.setattr(self.scaling, "set_desired_capacity", lost)

    def error(self, word, text):
        return self.scaling.exceptions.ClientError({"Error": {"Code": word, "Message": text}}, "AnyOperation")


@pytest.fixture
def world(pools):
    with pytest.MonkeyPatch.context() as patch:
        made = World(pools, patch)
        yield made
    made.remove()


class TestAwsAsg(Conformance):
    pass


def test_an_instance_is_found_by_its_name_tag_and_protected_by_another(world):
    first, second = sorted(world.who())[:2]
    world.ec2.create_tags(Resources=[first], Tags=[{"Key": "Name", "Value": "sfu7"}, {"Key": "openrtc:protected", "Value": ""}])
    found = {m.id: m for m in world.pool.machines()}
    assert (found[first].host, found[first].protected, found[second].protected) == ("sfu7", True, False)
    assert found[first].address and found[first].since > 1.6e9


def test_an_instance_that_the_group_takes_waits_in_its_hook(world):
    name, done = sorted(world.who())[0], []
    world.played("Terminating:Wait", [name])
    world.patch.setattr(world.scaling, "complete_lifecycle_action", lambda **args: done.append(args) or {})
    assert {m.id: m.state for m in world.pool.machines()}[name] == ENDING
    assert world.pool.retire([name]) == [name] and name in world.who()
    assert done == [{"AutoScalingGroupName": "livekit", "LifecycleHookName": "drain", "InstanceId": name, "LifecycleActionResult": "CONTINUE"}]
    world.played("Terminating:Proceed", [name])
    assert world.pool.retire([name]) == [] and len(done) == 1


def test_a_group_that_is_not_there_is_told(world):
    world.pool.group = "livekti"
    assert code(world.pool.machines) == "pool_refused"


def test_a_minimum_that_keeps_an_instance_is_told(world):
    world.scaling.update_auto_scaling_group(AutoScalingGroupName="livekit", MinSize=3)

    def refuse(**args):  # moto does not
        raise world.error("ValidationError", "below MinSize")

    world.patch.setattr(world.scaling, "terminate_instance_in_auto_scaling_group", refuse)
    with pytest.raises(FleetError, match="below MinSize"):
        world.pool.retire([sorted(world.who())[0]])
    assert len(ids(world)) == 3
