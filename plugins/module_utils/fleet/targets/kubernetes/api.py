# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API of Kubernetes, as much of it as we ask: JSON over HTTP, one connection that is kept. In a pod it needs no library.

Who we are comes from a kubeconfig (through the kubernetes library, which knows all the ways to log in), or in a pod from its account.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import typing as t
import urllib.parse

from ...errors import FleetError, require


def _library() -> t.Any:
    """The kubernetes library, None without it. Executors need none, and it takes 50 MB."""
    try:
        import kubernetes.config  # pylint: disable=import-outside-toplevel
    except ImportError:
        return None
    return kubernetes


ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT = 10.0
PAGE = 500
MERGE = "application/merge-patch+json"  # kind of a PATCH
LIST, METADATA = "application/json", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class Api:
    """One cluster. url: https://host:port; token: asked for with each request, as tokens are renewed. For one thread only."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None, token: t.Callable[[], str] = lambda: "", timeout: float = TIMEOUT) -> None:
        parts = urllib.parse.urlsplit(url)
        self.url, self.token, self.base = url, token, parts.path.rstrip("/")
        if parts.scheme == "https":
            self.connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port or 443, timeout=timeout, context=context or ssl.create_default_context())
        else:
            self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)

    @classmethod
    def from_kubeconfig(cls, path: str = "", context: str = "") -> Api:
        """path: "" for $KUBECONFIG or ~/.kube/config; context: "" for the current one. FleetError no_kubeconfig."""
        kubernetes = require(_library(), "kubernetes", "python3-kubernetes")
        try:
            found = kubernetes.config.new_client_from_config(config_file=path or None, context=context or None).configuration
        except Exception as exc:
            where = path or os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise FleetError("read the kubeconfig", where, exc, "Set livekit_kubernetes_kubeconfig and livekit_kubernetes_context, or KUBECONFIG",
                             code="no_kubeconfig") from exc
        trust = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if not found.verify_ssl:
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        if found.cert_file:
            trust.load_cert_chain(found.cert_file, found.key_file)

        def token() -> str:  # its name depends on the library's version; asking renews it
            key = found.get_api_key_with_prefix("authorization") or found.get_api_key_with_prefix("BearerToken")
            return str(key or (found.get_basic_auth_token() if found.username else ""))

        return cls(found.host, trust, token)

    @classmethod
    def in_pod(cls, timeout: float = TIMEOUT) -> Api:
        """With the account of the pod this runs in. FleetError no_account."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not os.path.exists(f"{ACCOUNT}/token"):
            raise FleetError("log in to Kubernetes", "this pod", "it has no account", "Set automountServiceAccountToken: true", code="no_account")

        def token() -> str:
            with open(f"{ACCOUNT}/token", encoding="utf-8") as handle:
                return f"Bearer {handle.read().strip()}"

        literal = f"[{host}]" if ":" in host else host
        return cls(f"https://{literal}:{port}", ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt"), token, timeout)

    def ask(self, method: str, path: str, body: t.Any = None, accept: str = LIST, kind: str = "application/json") -> dict[str, t.Any]:
        """The answer as a mapping. Raises FleetError not_found, no_rights, unauthorized, conflict, kubernetes_unreachable, kubernetes_api."""
        status, raw = self._send(method, path, body, accept, kind)
        try:
            found = dict(json.loads(raw or b"{}"))
        except (TypeError, ValueError):
            found = {"message": raw[:300].decode("utf-8", "replace")}
        if status >= 400:
            raise self._refused(method, path, status, found)
        return found

    def text(self, path: str) -> str:
        """The answer to a GET that is no JSON: a log. "" where there is none."""
        status, raw = self._send("GET", path)
        return raw.decode("utf-8", "replace") if status < 400 else ""

    @contextlib.contextmanager
    def stream(self, path: str) -> t.Iterator[http.client.HTTPResponse]:
        """The answer to a GET, to be read line by line while it comes. Raises FleetError."""
        try:
            self.connection.request("GET", self.base + path, None, self._headers(LIST))
            answer = self.connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            raise self._unreachable(exc) from exc
        if answer.status >= 400:
            raise self._refused("GET", path, answer.status, {"message": answer.read(300).decode("utf-8", "replace")})
        yield answer

    def _headers(self, accept: str, kind: str = "") -> dict[str, str]:
        token = self.token()
        return {"Accept": accept, **({"Authorization": token} if token else {}), **({"Content-Type": kind} if kind else {})}

    def _send(self, method: str, path: str, body: t.Any = None, accept: str = LIST, kind: str = "application/json") -> tuple[int, bytes]:
        """(status, what came)."""
        headers = self._headers(accept, "" if body is None else kind)
        text = None if body is None else json.dumps(body)
        attempt = 0
        while True:
            attempt += 1
            try:
                self.connection.request(method, self.base + path, text, headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as exc:
                self.connection.close()
                # A connection that was kept too long ends without a word; a POST is not said twice.
                if attempt == 2 or method == "POST" or isinstance(exc, TimeoutError):
                    raise self._unreachable(exc) from exc

    def _unreachable(self, exc: Exception) -> FleetError:
        return FleetError("reach the API of Kubernetes", self.url, exc, "See whether kubectl with the same context answers", code="kubernetes_unreachable")

    def _refused(self, method: str, path: str, status: int, found: t.Mapping[str, t.Any]) -> FleetError:
        code, fix = {401: ("unauthorized", "Log in again: the credentials of the kubeconfig are not accepted"),
                     403: ("no_rights", "Give the account of the kubeconfig this right"),
                     404: ("not_found", "It may just have gone: run again"),
                     409: ("conflict", "Somebody else changed it: run again")}.get(status, ("kubernetes_api", "Read what it says, correct and run again"))
        return FleetError(f"{method} an object of Kubernetes", path.partition("?")[0], found.get("message") or f"HTTP {status}", fix, code=code, status=status)

    def get(self, path: str) -> dict[str, t.Any] | None:
        """None where there is no such object (or no such API)."""
        try:
            return self.ask("GET", path)
        except FleetError as exc:
            if exc.failure["code"] == "not_found":
                return None
            raise

    def items(self, path: str, labels: str = "", fields: str = "", metadata_only: bool = False) -> list[dict[str, t.Any]]:
        """All objects of a list, page by page."""
        query = {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value} | {"limit": str(PAGE)}
        found: list[dict[str, t.Any]] = []
        while True:
            page = self.ask("GET", f"{path}?{urllib.parse.urlencode(query)}", accept=METADATA if metadata_only else LIST)
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query["continue"] = more
