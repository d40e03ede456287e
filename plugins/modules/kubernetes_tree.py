#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_tree
short_description: A LiveKit deployment as a tree of files for GitOps
version_added: 0.1.0
description:
  - Writes the objects of a deployment as YAML files, one each, in folders in the order in which they can be created. Only files that
    differ are written, and only files that were written by it before are removed.
  - No Secret lies in the tree in clear. Sealed and encrypted ones are kept as they are while what they are named after stays the same.
  - A new generation takes the slot after the one that the tree holds. This is an action plugin and runs on the control machine; it
    contacts no cluster.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._kubernetes.deployment
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Of Secrets only the names are shown.
  platform:
    platforms: posix
options:
  model:
    description: The shared model, C(livekit_model) of the role P(openrtc.livekit.model#role).
    type: dict
    required: true
  haproxy:
    description: The text of C(haproxy.cfg).
    type: str
    default: ""
  controller:
    description: What the role P(openrtc.livekit.controller#role) sets of C(controller.json).
    type: dict
    default: {}
  directory:
    description: Directory of the tree. It is made where it is missing.
    type: path
    required: true
  form:
    description:
      - V(plain) is files alone, V(kustomize) adds a C(kustomization.yaml) per folder, V(argocd) applications with sync waves and C(root.yaml),
        which is to be created by hand once.
    type: str
    choices: [plain, kustomize, argocd]
    default: plain
  secrets:
    description:
      - How Secrets lie in the tree. V(external) are references to a store for the External Secrets operator, V(sealed) are encrypted for the
        sealed-secrets controller, V(sops) by the program sops. Without one of them Secrets are refused.
    type: str
    choices: ['', external, sealed, sops]
    default: ''
  store:
    description: With O(secrets=external), the C(name), C(kind) and C(prefix) (of its entries) of the store.
    type: dict
    default: {}
  sealed_certificate:
    description: With O(secrets=sealed), the PEM text that C(kubeseal --fetch-cert) prints.
    type: str
    default: ""
  sops_arguments:
    description: With O(secrets=sops), arguments that name the keys. Not needed with a C(.sops.yaml).
    type: list
    elements: str
    default: []
  argocd:
    description: With O(form=argocd), C(repo), C(revision), C(path) of the tree in it, C(project), C(namespace) and C(server).
    type: dict
    default: {}
  retire:
    description:
      - Remove generations from the tree that are not the desired one. With O(form=argocd) that is done in any case, as Argo CD prunes them only
        when the new one is healthy.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Write the tree for Argo CD
  openrtc.livekit.kubernetes_tree:
    model: "{{ livekit_model }}"
    settings: {replicas: 3}
    directory: ../clusters/live
    form: argocd
    secrets: external
    store: {name: vault}
    argocd: {repo: https://git.example.org/ops.git, path: clusters/live}
"""

RETURN = r"""
generation:
  description: Name of the generation that the tree is for.
  returned: success
  type: str
  sample: 3f1c0a9be274
slot:
  description: Its slot.
  returned: success
  type: int
kept:
  description: Generations that stay in the tree beside it, until a run with O(retire=true).
  returned: success
  type: list
  elements: str
written:
  description: Files that were new or differed.
  returned: success
  type: list
  elements: str
removed:
  description: Files that went.
  returned: success
  type: list
  elements: str
"""
