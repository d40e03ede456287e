# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of files for GitOps: complete, stable, and without a secret in clear."""
from __future__ import annotations

import base64
import datetime
import os
import struct

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from kubernetes_sample import LAYOUT, PEM, SECRET, everything, material, model, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import output, sealed, tree, yaml_text

ARGO = output.Argo(repo="https://git.example.org/ops.git", path="clusters/live")


def external(secret):
    return sealed.external(secret, "vault", prefix="livekit/")


@pytest.fixture(scope="module")
def pair():
    """(private key, PEM certificate) of a sealed-secrets controller."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sealed-secrets")])
    now = datetime.datetime(2026, 1, 1)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1).not_valid_before(now)
                   .not_valid_after(now + datetime.timedelta(days=3650)).sign(key, hashes.SHA256()))
    return key, certificate.public_bytes(serialization.Encoding.PEM).decode()


def written(layout="plain", seal=external, existing=None, objects=None, **more):
    return output.tree(everything() if objects is None else objects, layout, seal, existing or {}, ARGO, **more)


def test_yaml_says_what_the_objects_say():
    found = everything()
    back = [yaml.safe_load(yaml_text.dump(obj)) for obj in found]
    assert back == found


@pytest.mark.parametrize("text", [
    "a\nb\n", "a\nb", "  indented\nfirst\n", "two at the end\n\n", "tab\there\nb\n", "\n", "a\n\n  b\n", "x: 'y' # z\n- \n", "a\r\nb\n", "ü\n☎\n"])
def test_texts_of_several_lines_survive(text):
    assert yaml.safe_load(yaml_text.dump({"a": {"b": [text, {"c": text}]}})) == {"a": {"b": [text, {"c": text}]}}


def test_scripts_are_readable():
    assert "\n      frontend in\n" in yaml_text.dump({"a": {"b": {"c": "frontend in\n  bind :1\n"}}})


def test_no_secret_lies_there_in_clear():
    hidden = [SECRET, base64.b64encode(SECRET.encode()).decode(), PEM["private_key"], base64.b64encode(PEM["private_key"].encode()).decode(), "pa:ss#word"]
    for text in written("argocd").values():
        assert not [h for h in hidden if h in text]
        assert not output.in_clear(text)


def test_secrets_in_clear_are_refused_by_name():
    with pytest.raises(FleetError) as failed:
        written(seal=None)
    assert failed.value.failure["code"] == "secrets_in_clear" and len(failed.value.failure["secrets"]) == 5
    assert SECRET not in str(failed.value)


def test_store_has_to_hold_the_keys_of_the_secret():
    (secret, dummy) = kubernetes.desired(material(), 1)
    found = external(secret)
    name = secret["metadata"]["name"]
    assert found["spec"]["target"]["name"] == name and found["spec"]["target"]["immutable"]
    assert {d["secretKey"]: d["remoteRef"] for d in found["spec"]["data"]}["keys.yaml"] == {"key": f"livekit/{name}", "property": "keys.yaml"}


def test_sealed_secret_can_be_opened_by_its_controller_under_its_name_only(pair):
    key, certificate = pair
    (secret, dummy) = kubernetes.desired(material(), 1)
    found = sealed.Sealer(certificate)(secret)
    assert sorted(found["spec"]["encryptedData"]) == sorted(secret["data"])
    raw = base64.b64decode(found["spec"]["encryptedData"]["keys.yaml"])
    length = struct.unpack(">H", raw[:2])[0]

    def opened(label):
        session = key.decrypt(raw[2:2 + length], padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label))
        return AESGCM(session).decrypt(bytes(12), raw[2 + length:], None)

    assert opened(f"livekit/{secret['metadata']['name']}".encode()) == base64.b64decode(secret["data"]["keys.yaml"])
    with pytest.raises(ValueError):
        opened(b"livekit/other")


def test_certificate_that_is_none():
    with pytest.raises(FleetError) as failed:
        sealed.Sealer("no certificate")
    assert failed.value.failure["code"] == "sealed_certificate"


def test_second_run_writes_no_byte(pair, tmp_path):
    seal = sealed.Sealer(pair[1])
    for layout in output.LAYOUTS:
        directory = str(tmp_path / layout)
        first = written(layout, seal)
        tree.write(directory, tree.compare(tree.read(directory), first))
        times = {path: os.stat(os.path.join(directory, path)).st_mtime_ns for path in first}
        again = tree.compare(tree.read(directory), written(layout, seal, existing=tree.read(directory)))
        assert not again
        tree.write(directory, again)
        assert times == {path: os.stat(os.path.join(directory, path)).st_mtime_ns for path in first}


def test_secret_that_lies_there_in_clear_is_not_kept():
    secret, dummy = kubernetes.desired(material(), 1)
    path = output.path_of(secret)
    found = written(objects=[secret], existing={path: output.HEADER + yaml_text.dump(secret)})
    assert not output.in_clear(found[path])


def test_file_of_sops_counts_as_protected():
    assert not output.in_clear("kind: Secret\ndata:\n  a: ENC[AES256_GCM]\nsops:\n  mac: ENC[]\n")
    assert output.in_clear("apiVersion: v1\nkind: Secret\n")


def test_tree_removes_what_it_wrote_and_leaves_the_files_of_others(tmp_path):
    (tmp_path / "README.yaml").write_text("mine\n")
    tree.write(str(tmp_path), tree.Changes({"server/a.yaml": output.HEADER + "a: 1\n"}, []))
    changes = tree.compare(tree.read(str(tmp_path)), {})
    assert changes.remove == ["server/a.yaml"]
    tree.write(str(tmp_path), changes)
    assert (tmp_path / "README.yaml").exists() and not (tmp_path / "server/a.yaml").exists()
    with pytest.raises(FleetError) as failed:
        tree.write(str(tmp_path), tree.Changes({"README.yaml": output.HEADER}, []))
    assert failed.value.failure["code"] == "file_not_ours"


def test_kustomize_names_every_file():
    found = written("kustomize")
    for folder in yaml.safe_load(found["kustomization.yaml"])["resources"]:
        listed = yaml.safe_load(found[f"{folder}/kustomization.yaml"])["resources"]
        assert [f"{folder}/{name}" for name in listed] == sorted(p for p in found if p.startswith(f"{folder}/") and not p.endswith("kustomization.yaml"))


def test_argocd_creates_in_order_and_prunes_last():
    found = written("argocd", autoscaled=True)
    apps = {path: yaml.safe_load(text) for path, text in found.items() if path.startswith("apps/")}
    waves = {app["metadata"]["name"]: int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for app in apps.values()}
    assert sorted(waves, key=waves.get) == [f"livekit-{w}" for w in ("namespace", "secrets", "redis", "server", "edge", "autoscaling", "monitoring")]
    assert all("PruneLast=true" in app["spec"]["syncPolicy"]["syncOptions"] for app in apps.values())
    assert apps["apps/server.yaml"]["spec"]["source"]["path"] == "clusters/live/server"
    assert apps["apps/server.yaml"]["spec"]["ignoreDifferences"][0]["jsonPointers"] == ["/spec/replicas"]
    assert yaml.safe_load(found["root.yaml"])["spec"]["source"]["path"] == "clusters/live/apps"


def test_argocd_needs_a_repository():
    with pytest.raises(FleetError) as failed:
        output.tree([], "argocd", external, {})
    assert failed.value.failure["code"] == "argocd_repo"


def test_tree_tells_which_generations_it_holds():
    objects = kubernetes.desired(material(), 2, serving=True)
    files = written(objects=objects)
    one, two = output.slots(files, 2)
    assert one.free and (two.slot, two.version, two.label) == (2, "1.13.5", "serving")
    assert two.generation == kubernetes.generation_name(material())
    assert output.of_generation(files, 2, two.generation) == files


def test_every_object_has_its_folder():
    folders = {output.folder(o) for o in everything()}
    assert folders == set(output.WAVES)
    assert kubernetes.base(model(), settings(), LAYOUT)
