# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, certificates and tokens of a lab, made anew for each and never leaving its directory, which is root's."""
from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import pathlib
import secrets

from common import run

from .layout import MAX_NODES, Lab

# Who the parts are for the API server, by the name of their kubeconfig.
USERS = {
    "admin": ("lab-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    **{f"node{number}": (f"system:node:node{number}", "system:nodes") for number in range(1, MAX_NODES + 1)},
}


def create(lab: Lab) -> None:
    lab.pki.mkdir(mode=0o700, parents=True)
    service = next(lab.services.hosts())
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"]
    alternatives = ",".join([f"IP:{lab.control.address}", f"IP:{service}", "IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
    ca(lab)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(certificate, lab, "apiserver", "/CN=kube-apiserver", alternatives),
            pool.submit(certificate, lab, "kubelet-client", "/O=system:masters/CN=lab-kubelet-client"),
            pool.submit(certificate, lab, "aggregator", "/CN=front-proxy-client"),
            pool.submit(key, lab.pki / "service-accounts.key"),
        ]
    for job in jobs:
        job.result()
    tokens = {name: secrets.token_hex(16) for name in USERS}
    lines = [f'{tokens[name]},{user},{name}' + (f',"{group}"' if group else "") for name, (user, group) in USERS.items()]
    write(lab.pki / "tokens.csv", "\n".join(lines) + "\n")
    for name, token in tokens.items():
        write(lab.pki / f"{name}.kubeconfig", kubeconfig(lab, token))


def write(path: pathlib.Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)


def key(path: pathlib.Path) -> None:
    """In the older of the two formats: the only one of an elliptic key that the API server takes the public half from."""
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))


def request(lab: Lab, name: str, subject: str, *more: str) -> None:
    """One call of openssl: a key and its certificate, without the extensions of the machine's own openssl.cnf."""
    config = lab.pki / f"{name}.cnf"
    config.write_text("[req]\ndistinguished_name = name\n[name]\n", encoding="utf-8")
    run(
        "openssl", "req", "-x509", "-config", str(config), "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365",
        "-subj", subject, "-keyout", str(lab.pki / f"{name}.key"), "-out", str(lab.pki / f"{name}.crt"), *more,
    )
    config.unlink()


def ca(lab: Lab) -> None:
    request(
        lab, "ca", f"/CN=lab {lab.name}", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-addext", "subjectKeyIdentifier=hash",
    )


def certificate(lab: Lab, name: str, subject: str, alternatives: str = "") -> None:
    extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth,clientAuth",
                  "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid"]
    if alternatives:
        extensions.append(f"subjectAltName={alternatives}")
    words = [word for extension in extensions for word in ("-addext", extension)]
    request(lab, name, subject, "-CA", str(lab.pki / "ca.crt"), "-CAkey", str(lab.pki / "ca.key"), *words)


def kubeconfig(lab: Lab, token: str) -> str:
    """As JSON, which is YAML. The certificate is in it, so that it works from anywhere."""
    authority = base64.b64encode((lab.pki / "ca.crt").read_bytes()).decode()
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": lab.name,
        "clusters": [{"name": lab.name, "cluster": {"server": lab.server, "certificate-authority-data": authority}}],
        "contexts": [{"name": lab.name, "context": {"cluster": lab.name, "user": lab.name}}],
        "users": [{"name": lab.name, "user": {"token": token}}],
    }, indent=1) + "\n"


def token_of(lab: Lab, name: str = "admin") -> str:
    return json.loads((lab.pki / f"{name}.kubeconfig").read_text(encoding="utf-8"))["users"][0]["user"]["token"]
