"""
From what Kubernetes, a registry or a node says to the code of a cause (`model/causes/pods.py`). Pure: the first rule that fits.

The words are those of kubelet, containerd, the scheduler and the API server, which are not ours to keep the same: what no rule
fits has the code of its kind, and its words are shown in any case.
"""

import re

from flowgroup.model.causes import said

Rules = tuple[tuple[str, re.Pattern[str]], ...]


def _rules(*rules: tuple[str, str]) -> Rules:
    return tuple((code, re.compile(pattern, re.IGNORECASE)) for code, pattern in rules)


def code_for(rules: Rules, text: str, otherwise: str) -> str:
    """The code of the first rule that fits; `otherwise` if none does."""
    return next((code for code, pattern in rules if pattern.search(text)), otherwise)


# A network's trouble first: its words name what was looked for, and that may be called anything.
IMAGE = _rules(
    ("image-rate-limit", r"toomanyrequests|too many requests|\b429\b|rate limit"),
    (
        "image-unreachable",
        r"no such host|dial tcp|time-?out|connection refused|connection reset|i/o|x509|deadline exceeded|\b50[0234]\b",
    ),
    (
        "image-unauthorised",
        r"denied|unauthori[sz]ed|forbidden|failed to authorize|authentication required|no basic auth|\b40[13]\b",
    ),
    (
        "image-not-found",
        r"not found|manifest unknown|name unknown|no such image|does not exist|no match for platform|invalid reference",
    ),
)
IMAGE_BY_REASON = {"InvalidImageName": "image-name-invalid", "ErrImageNeverPull": "image-not-on-node"}
# What only a person changes.
IMAGE_CERTAIN = frozenset({"image-unauthorised", "image-not-found", *IMAGE_BY_REASON.values()})

EVICTED = _rules(
    ("evicted-disk", r"ephemeral|emptydir|nodefs|imagefs|inode|containerfs|disk"),
    ("evicted-pid", r"\bpids?\b"),
    ("evicted-memory", r"memory"),
)
# Of a pod's `reason`; beginnings, for Kubernetes has OutOfcpu, OutOfmemory, OutOfnvidia.com/gpu, …
ENDED = _rules(
    ("preempted", r"^Preempting|^PreemptionBy"),
    ("evicted-api", r"^EvictionByEvictionAPI"),
    ("node-lost", r"^NodeLost|^DeletionByTaintManager|^DeletionByPodGC"),
    ("node-shutdown", r"^NodeShutdown|^Shutdown|^Terminated|^TerminationByKubelet"),
    ("deadline", r"^DeadlineExceeded"),
    ("node-refused", r"^OutOf|^NodeAffinity|^NodePorts|^UnexpectedAdmissionError|^TaintToleration"),
)
# Nodes that lack a resource fit in all else, for that is looked at last; a selector is looked at after taints.
UNSCHEDULABLE = _rules(
    ("unschedulable-volume", r"persistentvolumeclaim|volume node affinity|max volume count|volume\(s\)|volumes? "),
    ("unschedulable-gpu", r"insufficient \S*(gpu|/mig-)"),
    ("unschedulable-memory", r"insufficient memory"),
    ("unschedulable-cpu", r"insufficient cpu"),
    ("unschedulable-resource", r"insufficient \S+|too many pods"),
    (
        "unschedulable-affinity",
        r"node affinity|node selector|affinity/selector|pod affinity|pod anti-affinity|topology spread",
    ),
    ("unschedulable-taint", r"taint"),
)
REFERENCE = _rules(
    ("missing-key", r"non-existent (secret|config) key|couldn't find key|key \S+ (was )?not found"),
    ("missing-secret", r"secret \S+ not found|secrets? \S+ is forbidden"),
    ("missing-configmap", r"configmap \S+ not found|configmap is missing"),
)
# Of pods that the API will not take.
REFUSED = _rules(
    ("quota-wants-sizes", r"failed quota: .*must specify"),
    ("quota", r"exceeded quota"),
    ("missing-service-account", r"error looking up service account|serviceaccount \S+ not found"),
    ("pod-security", r"violates PodSecurity"),
    ("limit-range", r"(maximum|minimum) \S+ usage per |limit to request ratio per "),
    ("webhook-away", r"failed calling (admission )?webhook"),
    ("webhook-denied", r"admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied request"),
)
# Of events; what was said of volumes is over once an image is looked for.
EVENTS = _rules(
    ("sandbox-failed", r"^FailedCreatePodSandBox$|^FailedPodSandBox"),
    ("mount-failed", r"^FailedMount$|^FailedAttachVolume$|^FailedMapVolume$"),
)
ON_ITS_WAY = frozenset({"Pulling", "Pulled", "Created", "Started"})


def refused(what: str, words: str) -> str:
    """Why the API does not take an object of a cluster, or a Deployment its pods."""
    code = code_for(REFUSED, words, "")
    return said(code, what=what, said=words) if code else f"{what}: {words}"
