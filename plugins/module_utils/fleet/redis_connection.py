# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to Redis as LiveKit's own `redis` section describes it: address, TLS, Sentinel, and errors that say how to mend them.

It knows nothing of what LiveKit keeps there, but for check_access(), which proves that the user may do all LiveKit does.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import ssl
import time
import typing as t

from .errors import FleetError, require

try:
    import redis
    import redis.backoff
    import redis.connection
    import redis.retry
except ImportError:
    redis = None  # type: ignore[assignment]

_Self = t.TypeVar("_Self", bound="RedisConnection")


@dataclasses.dataclass(frozen=True)
class Access:
    """What check_access() proved. role is "" where the user may not ask for it."""

    role: str
    redis_version: str
    user: str
    clock_offset: float


# What a LiveKit user needs, as commands that are queued and thrown away. A denied one is reported by name.
_PROOF: tuple[tuple[str, ...], ...] = (
    ("HGETALL", "nodes"),
    ("HSET", "nodes", "ND_openrtc_check", "x"),
    ("HDEL", "nodes", "ND_openrtc_check"),
    ("HGETALL", "room_node_map"),
    ("HSET", "room_node_map", "openrtc_check", "x"),
    ("HDEL", "room_node_map", "openrtc_check"),
    ("HSET", "rooms", "openrtc_check", "x"),
    ("HSET", "room_internal", "openrtc_check", "x"),
    ("HSET", "room_participants:openrtc_check", "x", "x"),
    ("DEL", "room_participants:openrtc_check"),
    ("SET", "room_lock:openrtc_check", "x", "NX", "EX", "5"),
    ("EVAL", "return 1", "1", "room_lock:openrtc_check"),
    ("SET", "livekit_version", "0", "NX"),
    ("PUBLISH", "Keepalive|Ping|ND_openrtc_check|REQ", ""),
    ("SUBSCRIBE", "Keepalive|Ping|ND_openrtc_check|REQ"),
)

# redis-py turned these first words of an error into exception classes, or left them in the text, depending on its version
_AUTH_WORDS = ("WRONGPASS", "NOAUTH", "invalid password", "invalid username-password", "Authentication required", "without any password configured",
               "no password is set", "AuthenticationError")
_TLS_WORDS = ("SSL", "TLS", "certificate")


def _address(text: t.Any) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, colon, port = str(text).rpartition(":")
    host = host.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # a bare IPv6 address
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise FleetError("read the Redis address", str(text), "it is not host:port", "Write it as LiveKit wants it, e.g. 10.0.0.5:6379 or [fd00::5]:6379",
                         code="redis_config")
    return host, int(port)


def _format(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls_context(config: t.Mapping[str, t.Any], where: str) -> tuple[ssl.SSLContext, str] | None:
    """(context, server name or "") from LiveKit's redis.tls / redis.use_tls, None for plain TCP."""
    tls = config.get("tls") or {}
    if not (tls.get("enabled") or config.get("use_tls")):
        return None
    try:
        context = ssl.create_default_context(cafile=tls.get("ca_cert_file") or None)
        if tls.get("client_cert_file"):
            context.load_cert_chain(tls["client_cert_file"], tls.get("client_key_file") or None)
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(tls[k]) for k in ("ca_cert_file", "client_cert_file", "client_key_file") if tls.get(k))
        raise FleetError("load the TLS files for Redis", where, exc, f"Check that these exist here, are readable and are PEM: {files}",
                         code="redis_config") from exc
    if tls.get("insecure"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context, str(tls.get("server_name") or "")


def _tls_connection_class() -> t.Any:
    """A TLS connection with a free choice of server name, alike for every redis-py (its own differ, 4.3 does not even check names)."""

    class TlsConnection(redis.connection.Connection):  # type: ignore[misc, name-defined]
        def __init__(self, *, tls_context: ssl.SSLContext, tls_name: str = "", **kwargs: t.Any) -> None:
            self._tls_context, self._tls_name = tls_context, tls_name
            super().__init__(**kwargs)

        def _connect(self) -> t.Any:
            sock = super()._connect()
            try:
                return self._tls_context.wrap_socket(sock, server_hostname=self._tls_name or self.host)
            except BaseException:
                sock.close()
                raise

    return TlsConnection


class RedisConnection:
    """A connection to the Redis of LiveKit's `redis` section. Not for use by several threads at once. Close it, or use it in `with`."""

    def __init__(self, config: t.Mapping[str, t.Any], timeout: float = 3.0) -> None:
        require(redis, "redis", "python3-redis")
        self._config = {k: v for k, v in dict(config).items() if v is not None}
        self._timeout = timeout
        self._redis: t.Any = None
        self._clock: tuple[float, float, float] | None = None  # (time, monotonic, offset) when the offset was measured
        self._follows = bool(self._config.get("sentinel_addresses"))
        self.address = ""  # "host:port" of the server in use
        self._secrets = [str(self._config[k]) for k in ("password", "sentinel_password") if self._config.get(k)]
        if not self._follows:
            if self._config.get("cluster_addresses"):
                raise FleetError(
                    "connect to Redis", ", ".join(map(str, self._config["cluster_addresses"])), "Redis Cluster is not supported by this collection",
                    "Use one Redis server (redis.address) or Sentinel (redis.sentinel_master_name, redis.sentinel_addresses)", code="redis_cluster",
                )
            if not self._config.get("address"):
                raise FleetError("connect to Redis", "the redis settings", "neither address nor sentinel_addresses is set",
                                 "Set redis.address to host:port, as in LiveKit's configuration", code="redis_config")
            self.address = _format(*_address(self._config["address"]))
        elif not self._config.get("sentinel_master_name"):
            raise FleetError("connect to Redis", ", ".join(map(str, self._config["sentinel_addresses"])), "sentinel_master_name is not set",
                             "Set redis.sentinel_master_name to the name that the Sentinels monitor", code="redis_config")

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address or 'not connected'}>"

    def close(self) -> None:
        if self._redis is not None:
            try:
                self._redis.connection_pool.disconnect()
            finally:
                self._redis = self._clock = None

    # --- what callers ask for

    def open(self: _Self) -> _Self:
        """Connect and see that the server answers and is no replica."""
        _pong, _role = self.ask("connect to Redis", ("PING",), ("ROLE",))
        return self

    def clock_offset(self, samples: int = 3) -> float:
        """This machine's clock minus Redis' clock in seconds, from the quickest of a few answers."""
        best: tuple[float, float] | None = None
        for _n in range(max(1, samples)):
            before = time.time()
            (now,) = self.ask("read Redis' clock", ("TIME",))
            after = time.time()
            found = (after - before, (before + after) / 2 - (now[0] + now[1] / 1e6))
            best = found if best is None or found < best else best
        return best[1] if best else 0.0

    def check_access(self) -> Access:
        """Prove that this user can do all LiveKit does: keys, channels, writes. Changes nothing.

        The commands go into a transaction that is thrown away: Redis checks permission, role, memory and disk state when a
        command is queued, so a refusal shows, and nothing is ever executed.
        """
        offset = self.clock_offset()
        client = self._client()
        connection = client.connection_pool.make_connection()
        answers: list[t.Any] = []
        try:
            connection.connect()
            script = [("MULTI",), *_PROOF, ("DISCARD",), ("ROLE",), ("INFO", "server"), ("ACL", "WHOAMI")]
            connection.send_packed_command(connection.pack_commands(script))
            for _command in script:
                try:
                    answers.append(connection.read_response())
                except redis.exceptions.ResponseError as exc:
                    answers.append(exc)
        except (redis.exceptions.RedisError, OSError) as exc:
            raise self._explain("check access to Redis", exc) from exc
        finally:
            connection.disconnect()
        if isinstance(answers[0], Exception):
            raise self._explain("check access to Redis", answers[0])
        queued = answers[1:1 + len(_PROOF)]
        role, info, user = answers[-3:]
        self._require_master(role)
        denied, other = [], None
        for command, answer in zip(_PROOF, queued):
            if _is_acl(answer):
                denied.append(" ".join(word for word in command[:2]))
            elif isinstance(answer, Exception):
                other = other or answer
        if denied:
            raise self._acl_error("check access to Redis", "; ".join(denied), denied)
        if other is not None:
            raise self._explain("write to Redis", other)
        version = ""
        if not isinstance(info, Exception):
            lines = as_text(info).splitlines()
            version = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("redis_version:")), "")
        return Access(
            role="" if isinstance(role, Exception) else as_text(role[0]), redis_version=version,
            user="" if isinstance(user, Exception) else as_text(user), clock_offset=offset,
        )

    # --- asking

    def now(self) -> float:
        """Redis' clock, Unix seconds. The difference to this machine's clock is measured anew every 10 s, or after a clock step."""
        ours, steady = time.time(), time.monotonic()
        if self._clock is None or steady - self._clock[1] > 10 or abs((ours - self._clock[0]) - (steady - self._clock[1])) > 0.05:
            self._clock = (ours, steady, self.clock_offset(samples=1))
        return ours - self._clock[2]

    def evaluate(self, tried: str, script: str, keys: t.Sequence[str], args: t.Sequence[t.Any]) -> t.Any:
        """The answer of a Lua script, which Redis runs as one step."""
        (answer,) = self.ask(tried, ("EVAL", script, len(keys), *keys, *args))
        return answer

    def wait_for(self, key: str, timeout: float) -> bytes | None:
        """The first element of a list, once there is one; None where there is none in time."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return None
            (found,) = self.ask("wait for an answer", ("BLPOP", key, round(max(0.05, min(left, self._timeout / 2)), 2)))
            if found:
                return t.cast(bytes, found[1])

    def listen(self, *channels: str) -> t.Any:
        """redis-py's PubSub of these channels, on a connection of its own; close() it."""
        pubsub = self._client().pubsub(ignore_subscribe_messages=True)
        try:
            pubsub.subscribe(*channels)
        except (redis.exceptions.RedisError, OSError) as exc:
            pubsub.close()
            raise self._explain("listen to channels", exc) from exc
        return pubsub

    def ask(self, tried: str, *commands: tuple[t.Any, ...]) -> list[t.Any]:
        """The answers of a pipeline. With Sentinel a failed one is asked once more of the master of that moment."""
        try:
            return self._ask_once(tried, commands)
        except FleetError as exc:
            if not self._follows or exc.failure["code"] not in ("redis_unreachable", "redis_replica"):
                raise
            self.close()
            return self._ask_once(tried, commands)

    def _ask_once(self, tried: str, commands: t.Iterable[tuple[t.Any, ...]]) -> list[t.Any]:
        pipeline = self._client().pipeline(transaction=False)
        names = []
        for command in commands:
            pipeline.execute_command(*command)
            names.append(command)
        try:
            answers = pipeline.execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError) as exc:
            raise self._explain(tried, exc) from exc
        for command, answer in zip(names, answers):
            if command[0] == "ROLE":
                self._require_master(answer)
        for command, answer in zip(names, answers):
            if command[0] != "ROLE" and isinstance(answer, Exception):
                if _is_acl(answer):
                    what = " ".join(map(str, command[:2]))
                    raise self._acl_error(tried, what, [what])
                raise self._explain(tried, answer)
        return answers

    def _client(self) -> t.Any:
        if self._redis is None:
            if self._follows:
                self.address = self._ask_sentinels()
            self._redis = self._make(self.address, self._config.get("username"), self._config.get("password"), int(self._config.get("db") or 0))
        return self._redis

    def _make(self, address: str, username: t.Any, password: t.Any, db: int) -> t.Any:
        host, port = _address(address)
        kwargs: dict[str, t.Any] = {
            "host": host, "port": port, "db": db, "username": username or None, "password": password or None,
            "socket_timeout": self._timeout, "socket_connect_timeout": self._timeout, "socket_keepalive": True,
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # redis-py 6 and later would try for many seconds
        }
        if int(redis.__version__.split(".")[0]) >= 5:
            kwargs["protocol"] = 2  # no HELLO: one permission less to ask of the user
        tls = _tls_context(self._config, address)
        if tls:
            kwargs.update(connection_class=_tls_connection_class(), tls_context=tls[0], tls_name=tls[1])
        return redis.Redis(connection_pool=redis.ConnectionPool(**kwargs))

    def _ask_sentinels(self) -> str:
        """"host:port" of the master, from the first Sentinel that knows it."""
        name, heard = str(self._config["sentinel_master_name"]), []
        for item in self._config["sentinel_addresses"]:
            address = _format(*_address(item))
            client = self._make(address, self._config.get("sentinel_username"), self._config.get("sentinel_password"), 0)
            try:
                found = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", name)
            except (redis.exceptions.RedisError, OSError) as exc:
                heard.append(f"{address}: {self._clean(exc)}")
                continue
            finally:
                client.connection_pool.disconnect()
            if found:
                return _format(as_text(found[0]), int(found[1]))
            heard.append(f"{address}: knows no master of that name")
        raise FleetError(
            "find the Redis master through Sentinel", name, "; ".join(heard),
            "Check redis.sentinel_master_name, the Sentinels' addresses and their password", code="sentinel_no_master", master_name=name,
        )

    # --- errors

    def _where(self) -> str:
        user, db = self._config.get("username"), self._config.get("db")
        more = [f"user {user}"] if user else []
        more += [f"db {db}"] if db else []
        return f"{self.address} ({', '.join(more)})" if more else self.address

    def _clean(self, exc: t.Any) -> str:
        """The text of an error, without any password."""
        text = " ".join(str(exc).split()).rstrip(".") or type(exc).__name__
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text

    def _explain(self, tried: str, exc: BaseException) -> FleetError:
        text = self._clean(exc)
        if isinstance(exc, redis.exceptions.AuthenticationError) or any(word in text for word in _AUTH_WORDS):
            has = bool(self._config.get("password"))
            fix = "Set redis.password (and redis.username) to what the server wants"
            if "without any password" in text or "no password is set" in text:
                fix = "The server has no password: give it one (requirepass or an ACL user), or remove redis.password"
            return FleetError(tried, self._where(), text, fix, code="redis_auth", password_given=has)
        if _is_acl(exc):
            return self._acl_error(tried, text, [text])
        if isinstance(exc, redis.exceptions.ReadOnlyError) or "READONLY" in text:
            return self._replica_error("")
        if isinstance(exc, redis.exceptions.BusyLoadingError):
            return FleetError(tried, self._where(), text, "Redis is reading its data from disk: try again in a moment", code="redis_unreachable")
        if isinstance(exc, redis.exceptions.ResponseError):
            return FleetError(tried, self._where(), text, "Look at the server's log", code="redis_error")
        if any(word in text for word in _TLS_WORDS):
            fix = "Compare redis.tls (enabled, ca_cert_file, server_name, client_cert_file) with the server's TLS settings"
            return FleetError(tried, self._where(), text, fix, code="redis_tls")
        return FleetError(
            tried, self._where(), text,
            "Check that redis-server runs, listens on that address (bind, port), that no firewall is in between and that both sides agree on TLS",
            code="redis_unreachable",
        )

    def _acl_error(self, tried: str, got: str, denied: list[str]) -> FleetError:
        user = self._config.get("username") or "default"
        return FleetError(
            tried, self._where(), f"user {user} may not: {got}",
            f"LiveKit needs every key and every channel: ACL SETUSER {user} on >PASSWORD ~* &* +@all -@dangerous +info +role, or wider", code="redis_acl",
            denied=denied, user=user,
        )

    def _require_master(self, role: t.Any) -> None:
        """role: the answer to ROLE. A user that may not ask is believed."""
        if not isinstance(role, Exception) and role and as_text(role[0]) not in ("master", "sentinel"):
            raise self._replica_error(_format(as_text(role[1]), int(role[2])))
        if not isinstance(role, Exception) and role and as_text(role[0]) == "sentinel":
            raise FleetError("use Redis", self._where(), "this is a Sentinel, not a Redis server",
                             "Set redis.sentinel_addresses and redis.sentinel_master_name instead of redis.address", code="redis_config")

    def _replica_error(self, master: str) -> FleetError:
        follows = f"it is a replica of {master}" if master else "it is a replica"
        return FleetError("use Redis", self._where(), follows,
                          f"Point redis.address at the master{' ' + master if master else ''}, or use Sentinel", code="redis_replica", master=master)


def _is_acl(answer: t.Any) -> bool:
    return isinstance(answer, Exception) and (isinstance(answer, redis.exceptions.NoPermissionError) or "NOPERM" in str(answer))


def as_text(value: t.Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
