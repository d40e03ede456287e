# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Option redis. Note that this doc fragment is PRIVATE to the collection."""
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - redis (Python library, 4.3 or later; on Debian C(python3-redis))
  - protobuf (Python library, 3.21 or later; on Debian C(python3-protobuf))
options:
  redis:
    description:
      - How to reach the cluster's Redis, as LiveKit's own configuration section of that name. Give either O(redis.address) or
        O(redis.sentinel_master_name) with O(redis.sentinel_addresses).
      - Files named here are read on the host that the task runs on.
    type: dict
    suboptions:
      address:
        description: C(host:port) of the server. IPv6 addresses go into brackets.
        type: str
      username:
        description: ACL user.
        type: str
      password:
        description: Password of the user, or of the server.
        type: str
      db:
        description: Number of the database; V(0) where it is not given.
        type: int
      use_tls:
        description: Old name of O(redis.tls.enabled).
        type: bool
      tls:
        description: TLS settings.
        type: dict
        suboptions:
          enabled:
            description: Whether the server speaks TLS.
            type: bool
          insecure:
            description: Whether to accept any certificate.
            type: bool
          server_name:
            description: Name to ask for and to check, where it is not the host of O(redis.address).
            type: str
          ca_cert_file:
            description: Certificates to trust instead of the system's, a PEM file.
            type: path
          client_cert_file:
            description: Certificate to show to the server, a PEM file.
            type: path
          client_key_file:
            description: Key of O(redis.tls.client_cert_file), a PEM file.
            type: path
      sentinel_master_name:
        description: Name under which the Sentinels know the master.
        type: str
      sentinel_addresses:
        description: C(host:port) of each Sentinel. They go before O(redis.address).
        type: list
        elements: str
      sentinel_username:
        description: ACL user of the Sentinels.
        type: str
      sentinel_password:
        description: Password of the Sentinels.
        type: str
      cluster_addresses:
        description: Redis Cluster is refused with a clear message.
        type: list
        elements: str
      dial_timeout:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: int
      read_timeout:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: int
      write_timeout:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: int
      max_redirects:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: int
      pool_timeout:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: str
      pool_size:
        description: Accepted so that LiveKit's section can be given as it is; not used here.
        type: int
"""


# _registry.required, for what is nothing without Redis. Set from outside: the sanity test yamllint reads plain texts only inside.
ModuleDocFragment.REQUIRED = ModuleDocFragment.DOCUMENTATION.replace(  # type: ignore[attr-defined]
    "    type: dict\n    suboptions:\n", "    type: dict\n    required: true\n    suboptions:\n", 1,
)
