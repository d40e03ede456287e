# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets for a Git repository: as references to a store, sealed for one cluster, or encrypted by SOPS. Never in clear.

Sealing is what kubeseal does, for the default scope (one name in one namespace): a fresh AES-256-GCM key per value, itself encrypted by
RSA-OAEP under the cluster's public key. So a text differs each time it is made; tree.py keeps one that is there already, which is right as
the names of our Secrets follow from their contents.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import os
import struct
import typing as t

from ...errors import FleetError
from .objects import Object

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    x509 = None  # type: ignore[assignment]


def external(secret: t.Mapping[str, t.Any], store: str, kind: str = "ClusterSecretStore", prefix: str = "") -> Object:
    """An ExternalSecret that makes this Secret from one entry of the store, whose properties are the Secret's keys."""
    meta = secret["metadata"]
    remote = f"{prefix}{meta['name']}"
    notes = {"labels": dict(meta.get("labels") or {}), "annotations": dict(meta.get("annotations") or {})}
    template = {"type": secret.get("type", "Opaque"), "metadata": notes}
    return {
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": _same(meta),
        "spec": {
            "refreshPolicy": "CreatedOnce",  # what a name stands for never changes
            "secretStoreRef": {"kind": kind, "name": store},
            "target": {"name": meta["name"], "creationPolicy": "Owner", "immutable": True, "template": template},
            "data": [{"secretKey": key, "remoteRef": {"key": remote, "property": key}} for key in secret["data"]],
        },
    }


class Sealer:
    """certificate: PEM of the sealed-secrets controller (kubeseal --fetch-cert)."""

    def __init__(self, certificate: str) -> None:
        if x509 is None:
            raise FleetError("seal Secrets", "cryptography", "the Python library is missing", "Install it: pip install cryptography", code="missing_library")
        try:
            key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        except ValueError as exc:
            raise FleetError("read the certificate of sealed-secrets", "livekit_kubernetes_sealed_certificate", exc,
                             "Give the PEM text that kubeseal --fetch-cert prints", code="sealed_certificate") from exc
        if not isinstance(key, rsa.RSAPublicKey):
            raise FleetError("read the certificate of sealed-secrets", "livekit_kubernetes_sealed_certificate", "its key is no RSA key",
                             "Give the PEM text that kubeseal --fetch-cert prints", code="sealed_certificate")
        self.key = key

    def __call__(self, secret: t.Mapping[str, t.Any]) -> Object:
        meta = secret["metadata"]
        label = f"{meta['namespace']}/{meta['name']}".encode()
        data = {key: base64.b64encode(self.encrypt(base64.b64decode(value), label)).decode() for key, value in secret["data"].items()}
        template = {"metadata": _same(meta), "type": secret.get("type", "Opaque"), "immutable": True}
        return {"apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret", "metadata": _same(meta), "spec": {"encryptedData": data, "template": template}}

    def encrypt(self, plain: bytes, label: bytes) -> bytes:
        """Length of the encrypted key (2 bytes), the encrypted key, the encrypted value. The key is used once, so its nonce may be zero."""
        session = os.urandom(32)
        wrapped = self.key.encrypt(session, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label))
        return struct.pack(">H", len(wrapped)) + wrapped + AESGCM(session).encrypt(bytes(12), plain, None)


def _same(meta: t.Mapping[str, t.Any]) -> Object:
    return {key: meta[key] for key in ("name", "namespace", "labels", "annotations") if meta.get(key)}


def refused(secrets: t.Sequence[t.Mapping[str, t.Any]]) -> FleetError:
    names = ", ".join(s["metadata"]["name"] for s in secrets)
    return FleetError("write the objects to files", names, "these Secrets would lie there in clear",
                      "Set livekit_kubernetes_secrets to external, sealed or sops", code="secrets_in_clear", secrets=[s["metadata"]["name"] for s in secrets])
