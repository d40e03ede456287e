# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pools of AWS share: a client that gives up in time, and its errors as ours. Who we are comes from the instance, the pod or the environment.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from ..errors import FleetError, require

try:
    import boto3
    import botocore.config
    import botocore.exceptions
except ImportError:
    boto3 = None

AWAY = ("RequestLimitExceeded", "Throttling", "ThrottlingException", "ServiceUnavailable", "InternalFailure", "ServerException", "RequestTimeout",
        "503", "502", "500")
PAGE = 100  # things that are asked about in one call


def client(service: str, region: str, endpoint: str = "") -> t.Any:
    """endpoint: "" for AWS itself. Raises FleetError missing_library, pool_settings."""
    require(boto3, "boto3", "python3-boto3")
    config = botocore.config.Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2, "mode": "standard"})
    try:
        return boto3.session.Session().client(service, region_name=region or None, endpoint_url=endpoint or None, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as exc:
        raise FleetError("set up a client of AWS", service, exc, "Set region in livekit_scaling.pool", code="pool_settings") from exc


def ask(tried: str, on: str, call: t.Callable[..., dict[str, t.Any]], **args: t.Any) -> dict[str, t.Any]:
    """One call. Raises FleetError pool_unreachable, pool_refused."""
    try:
        return call(**args)
    except botocore.exceptions.ClientError as exc:
        error = exc.response.get("Error", {})
        code = str(error.get("Code"))
        fix = "Wait: it will be tried again" if code in AWAY else "See the rights of the controller's role in docs/pools.md, and the limits of the account"
        raise FleetError(tried, on, f"{code}: {error.get('Message')}", fix, code="pool_unreachable" if code in AWAY else "pool_refused", aws=code) from exc
    except botocore.exceptions.BotoCoreError as exc:
        raise FleetError(tried, on, exc, "See whether this host reaches AWS and has a role", code="pool_unreachable") from exc


def pages(found: t.Sequence[str]) -> t.Iterator[list[str]]:
    for begin in range(0, len(found), PAGE):
        yield list(found[begin:begin + PAGE])
