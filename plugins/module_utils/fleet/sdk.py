# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SDK of LiveKit and its native library, which is loaded on first use only and belongs into a process of its own.

Trust: both the native library and the API client read SSL_CERT_FILE and SSL_CERT_DIR from the environment, the latter
once, at import. C(trust) therefore names C(ca_file) there before either is loaded, beside the system's directory.
TURN/TLS is beyond that: the native library checks its certificate against a list of public CAs of its own.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import importlib
import os
import ssl
import typing as t

from .errors import require

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def trust(ca_file: str | None, env: t.MutableMapping[str, str]) -> None:
    """Let a process with this environment trust ca_file besides the system's CAs."""
    if ca_file:
        env["SSL_CERT_FILE"] = os.path.abspath(ca_file)
        env.setdefault("SSL_CERT_DIR", ssl.get_default_verify_paths().openssl_capath)


def isolate(ca_file: str | None = None) -> None:
    """Prepare this process for calls: once, before the SDK is loaded.

    Sets the CA file, drops HTTP proxies (the native client would send even ws://127.0.0.1 through them, while media
    never takes that way) and keeps the library's debug log out of Python (it costs half of the CPU of a call).
    """
    trust(ca_file, os.environ)
    for name in PROXIES:
        os.environ.pop(name, None)
    with contextlib.suppress(ImportError, AttributeError):
        ffi = importlib.import_module("livekit.rtc._ffi_client")
        real = ffi.get_ffi_lib

        def quiet() -> t.Any:
            lib = real()
            native = lib.livekit_ffi_initialize

            def initialize(callback: t.Any, capture_logs: bool, sdk: bytes, version: bytes) -> t.Any:
                return native(callback, False, sdk, version)

            lib.livekit_ffi_initialize = initialize
            return lib

        if not getattr(ffi, "_openrtc_quiet", False):
            ffi.get_ffi_lib = quiet
            ffi._openrtc_quiet = True


def load() -> tuple[t.Any, t.Any]:
    """(livekit.rtc, livekit.api), loaded on first use."""
    found = []
    for name, package in (("livekit.rtc", "livekit==1.2.0 (pip only)"), ("livekit.api", "livekit-api (pip only)")):
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            require(None, package.split(" ", maxsplit=1)[0], package)
    return found[0], found[1]


def start() -> None:
    """Load the library and let it start its threads now, so that no call waits for it."""
    load()
    with contextlib.suppress(AttributeError):
        importlib.import_module("livekit.rtc._ffi_client").FfiClient.instance.queue


def token(key: str, secret: str, room: str, identity: str) -> str:
    """A token to join the room."""
    _rtc, api = load()
    return api.AccessToken(key, secret).with_identity(identity).with_grants(api.VideoGrants(room_join=True, room=room)).to_jwt()
