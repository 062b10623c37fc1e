"""The causes that Kubernetes tells, a row each. `edge/kubernetes/rules.py` recognises them."""

from flowgroup.model.causes.row import Cause

_ANYWAY = "An attempt on another node may end well: start the run again."
_IMAGE = "the image of the {who} cannot be pulled ({reason}): {said}"
_UNSCHEDULABLE = "the {who}'s pod cannot be scheduled: {said}"
_RESOURCE = "A node that fits may still come; else choose a smaller {size}, or add nodes."

MEMORY = (
    Cause(
        "oom-container",
        "Kubernetes: a container of a pod with a memory limit was terminated with the reason `OOMKilled`",
        "the {who}{where}: it took more memory than its limit{limit}, and the kernel ended it (OOMKilled).",
        "Give it more by a larger {size}, or hold less at once. All that ran in it ended with it.",
    ),
)

NODES = (
    Cause(
        "evicted-memory",
        "Kubernetes: a pod failed with the reason `Evicted`, its node being low on memory",
        "the {who}'s pod was evicted from its node, which was short of memory: {said}",
        "Ask for as much memory as it uses by a larger {size}: those above their request go first.",
    ),
    Cause(
        "evicted-disk",
        "Kubernetes: `Evicted` for ephemeral storage, nodefs, imagefs or inodes, or for an emptyDir above its limit",
        "the {who}'s pod was evicted from its node for the disk that it or others used: {said}",
        "Write less to local files, or ask for more ephemeral_storage by a larger {size}.",
    ),
    Cause(
        "evicted-pid",
        "Kubernetes: `Evicted`, its node being low on process ids",
        "the {who}'s pod was evicted from its node, which was short of process ids: {said}",
        "Start fewer processes and threads (workers, pools, BLAS), or have the node's limit of pids raised.",
    ),
    Cause(
        "evicted",
        "Kubernetes: `Evicted` for a reason that is none of these",
        "the {who}'s pod was evicted from its node: {said}",
        "Ask for more memory or ephemeral storage by a larger {size}.",
    ),
    Cause(
        "evicted-api",
        "Kubernetes: the pod's condition `DisruptionTarget` with the reason EvictionByEvictionAPI: a drain, an "
        "autoscaler",
        "the {who}'s pod was evicted by Kubernetes' eviction API: {said}",
        "Somebody drained its node, or an autoscaler took it away. " + _ANYWAY,
    ),
    Cause(
        "preempted",
        "Kubernetes: `DisruptionTarget` with the reason PreemptionByScheduler or PreemptionByKubelet, or the "
        "pod's reason Preempting",
        "the {who}'s pod had to make room for one of a higher priority: {said}",
        "Give it a size with a higher priority_class, or more nodes. " + _ANYWAY,
    ),
    Cause(
        "node-lost",
        "Kubernetes: DeletionByTaintManager, DeletionByPodGC, NodeLost or ContainerStatusUnknown, or a deleted "
        "pod that does not end",
        "the {who}'s pod was lost with its node: {said}",
        "Its node does not answer any more, or is gone: `kubectl get nodes` says which. " + _ANYWAY,
    ),
    Cause(
        "node-shutdown",
        "Kubernetes: the pod's reason `Terminated`, `NodeShutdown` or `Shutdown`, or TerminationByKubelet",
        "the {who}'s pod was ended: {said}",
        "Its node was shut down, as spot nodes are. " + _ANYWAY,
    ),
    Cause(
        "node-refused",
        "Kubernetes: kubelet refused a pod that was placed there (OutOfcpu, OutOfmemory, NodeAffinity, "
        "UnexpectedAdmissionError)",
        "the {who}'s pod was refused by the node that it was placed on ({reason}): {said}",
        "Others took the place first, or a device is gone. " + _ANYWAY,
    ),
    Cause(
        "pod-deleted",
        "Kubernetes: the driver's pod is not there any more, and nothing says why",
        "the {who}'s pod is gone: it was deleted, or its node was.",
        "Did somebody delete it? `kubectl get events` in the namespace of clusters knows for an hour.",
    ),
    Cause(
        "cluster-deleted",
        "Kubernetes: the DaskCluster is not there any more, or is being deleted",
        "its DaskCluster {name} in namespace {namespace} is {how}.",
        "Somebody deleted it: clusters are flowgroup's own to delete.",
    ),
    Cause(
        "pod-ended",
        "Kubernetes: a pod has ended, and no container says how",
        "the {who}'s pod was ended: {said}",
        "`kubectl describe` of the pod and its node may say more.",
    ),
)

IMAGES = (
    Cause(
        "image-unauthorised",
        "Kubernetes: ErrImagePull or ImagePullBackOff with unauthorized, denied, forbidden or 401",
        _IMAGE,
        "The registry does not let the nodes in, or there is no such repository: is the name right, and does "
        "the namespace have the "
        "registry's credentials (FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS)?",
    ),
    Cause(
        "image-not-found",
        "Kubernetes: ErrImagePull or ImagePullBackOff with not found, manifest unknown or no match for platform",
        _IMAGE,
        "Is its name right, was that tag pushed, and for this processor?",
    ),
    Cause(
        "image-rate-limit",
        "Kubernetes: ErrImagePull or ImagePullBackOff with toomanyrequests or 429",
        _IMAGE,
        "The registry limits how often images are pulled: it is tried again; give credentials "
        "(FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS), or use a mirror.",
    ),
    Cause(
        "image-unreachable",
        "Kubernetes: ErrImagePull or ImagePullBackOff with no such host, a refused connection, a timeout or a "
        "certificate",
        _IMAGE,
        "The node does not reach the registry: is its host right, and do nodes get there? It is tried again.",
    ),
    Cause(
        "image-name-invalid",
        "Kubernetes: the container waits with InvalidImageName",
        _IMAGE,
        "That is no name of an image: deploy again with image='registry/repository:tag'.",
    ),
    Cause(
        "image-not-on-node",
        "Kubernetes: the container waits with ErrImageNeverPull",
        _IMAGE,
        "It is not on the node, and the policy is never to pull: load it there, or set "
        "FLOWGROUP_KUBERNETES_IMAGE_PULL_POLICY.",
    ),
    Cause(
        "image-not-pulled",
        "Kubernetes: ErrImagePull or ImagePullBackOff with words that are none of these",
        _IMAGE,
        "Is its name right, and does the namespace have the registry's credentials "
        "(FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS)?",
    ),
    Cause(
        "image-lacks",
        "The container's last words: a program, or a package that flowgroup needs, was not found",
        "The image cannot be used: {said}",
        "An image of your own needs Python and flowgroup[runtime], and bash for a start script: build it FROM "
        "flowgroup's runtime "
        "image, or install flowgroup[runtime] in it.",
    ),
)

STARTING = (
    Cause(
        "missing-secret",
        "Kubernetes: CreateContainerConfigError, or FailedMount among its events, with `secret … not found`",
        "the {who}'s pod refers to what is not there: {said}",
        "Make that Secret in the namespace of clusters, or correct the deployment's job variables.",
    ),
    Cause(
        "missing-configmap",
        "Kubernetes: CreateContainerConfigError, or FailedMount among its events, with `configmap … not found`",
        "the {who}'s pod refers to what is not there: {said}",
        "Make that ConfigMap in the namespace of clusters, or correct the deployment's job variables.",
    ),
    Cause(
        "missing-key",
        "Kubernetes: the Secret or ConfigMap is there, and lacks the key that is asked for",
        "the {who}'s pod refers to what is not there: {said}",
        "Put that key into the Secret or ConfigMap, or correct the deployment's job variables.",
    ),
    Cause(
        "missing-service-account",
        "Kubernetes: the API refused the pod because its service account is not there",
        "the pod cannot be made: {said}",
        "Make that service account in the namespace of clusters, or correct service_account.",
    ),
    Cause(
        "container-config",
        "Kubernetes: CreateContainerConfigError for another reason, such as an image that wants to run as root",
        "the {who}'s pod cannot be started as it is: {said}",
        "Correct the image or the deployment's job variables.",
    ),
    Cause(
        "container-cannot-start",
        "Kubernetes: StartError, RunContainerError, CreateContainerError or ContainerCannotRun",
        "the {who}{where}: its command cannot be started ({reason}): {said}",
        "The image must have Python and flowgroup[runtime], for this processor, and let user 10001 run it.",
    ),
    Cause(
        "start-script",
        "The container ended with status 79, which is the start script's",
        "the {who}{where}: its start script failed.",
        "Correct the script; its last lines, below and in the run's log, say what went wrong.",
    ),
    Cause(
        "crash-loop",
        "Kubernetes: CrashLoopBackOff: a container has ended three times or more",
        "the {who}{where}: exit status {status}{reason}.",
        "The last lines of its output say why.",
    ),
    Cause(
        "container-exit",
        "Kubernetes: a container was terminated with an exit status",
        "the {who}{where}: exit status {status}{reason}.",
        "The last lines of its output say why.",
    ),
    Cause(
        "container-killed",
        "Kubernetes: a container was terminated with status 137, and not for its memory limit",
        "the {who}{where}: SIGKILL (exit status 137), and not for its memory limit.",
        "Its node may have been short of memory, or it did not end when it was asked to; `kubectl describe "
        "node` may say more.",
    ),
    Cause(
        "mount-failed",
        "Kubernetes: FailedMount, FailedAttachVolume or FailedMapVolume among the pod's events",
        "a volume of the {who}'s pod cannot be mounted: {said}",
        "Is the storage there, and may this node use it? It is tried again.",
    ),
    Cause(
        "sandbox-failed",
        "Kubernetes: FailedCreatePodSandBox among the pod's events",
        "the node cannot make the sandbox of the {who}'s pod: {said}",
        "That is the node's network (CNI) or its container runtime: `kubectl describe node` says more. It is "
        "tried again.",
    ),
    Cause(
        "not-starting",
        "Kubernetes: a container waits for a reason that is none of these",
        "the {who}'s container does not start ({reason}): {said}",
        "`kubectl describe` of the pod may say more.",
    ),
)

PLACES = (
    Cause("unschedulable-cpu", "Kubernetes' scheduler: Insufficient cpu", _UNSCHEDULABLE, _RESOURCE),
    Cause("unschedulable-memory", "Kubernetes' scheduler: Insufficient memory", _UNSCHEDULABLE, _RESOURCE),
    Cause(
        "unschedulable-gpu",
        "Kubernetes' scheduler: Insufficient nvidia.com/gpu, or another GPU",
        _UNSCHEDULABLE,
        "A node with as many free GPUs may still come; else choose a {size} with fewer, or add nodes. Is the "
        "device plugin running?",
    ),
    Cause(
        "unschedulable-resource",
        "Kubernetes' scheduler: Insufficient of another resource, or Too many pods",
        _UNSCHEDULABLE,
        _RESOURCE,
    ),
    Cause(
        "unschedulable-volume",
        "Kubernetes' scheduler: a PersistentVolumeClaim that is not there, not bound, or bound to other nodes",
        _UNSCHEDULABLE,
        "Make the claim in the namespace of clusters, or correct the deployment's volumes; `kubectl describe "
        "pvc` says why it is not bound.",
    ),
    Cause(
        "unschedulable-affinity",
        "Kubernetes' scheduler: didn't match node affinity or selector, pod affinity or topology spread",
        _UNSCHEDULABLE,
        "No node has the labels that its size asks for: a node that fits may still come; else choose another {size}.",
    ),
    Cause(
        "unschedulable-taint",
        "Kubernetes' scheduler: untolerated taint",
        _UNSCHEDULABLE,
        "The nodes that fit are kept for others: choose a {size} with the tolerations for them, or one for "
        "other nodes.",
    ),
    Cause(
        "unschedulable",
        "Kubernetes' scheduler, for a reason that is none of these",
        _UNSCHEDULABLE,
        "A node that fits may still come; else choose another {size}.",
    ),
)

REFUSED = (
    Cause(
        "quota",
        "Kubernetes: the API refused an object with `exceeded quota`, at once or as a Deployment's ReplicaFailure",
        "{what}: {said}",
        "The namespace's ResourceQuota is used up: raise it, or wait for other pods to end.",
    ),
    Cause(
        "quota-wants-sizes",
        "Kubernetes: the API refused a pod with `must specify limits…`, for a ResourceQuota wants to know",
        "{what}: {said}",
        "The namespace's ResourceQuota takes only pods that say how much they need: choose sizes that say cpu "
        "and memory.",
    ),
    Cause(
        "limit-range",
        "Kubernetes: the API refused a pod by the namespace's LimitRange",
        "{what}: {said}",
        "The namespace's LimitRange does not allow that size: choose another one.",
    ),
    Cause(
        "pod-security",
        "Kubernetes: the API refused a pod with `violates PodSecurity`",
        "{what}: {said}",
        "The namespace enforces Pod Security: leave out what it does not allow, such as a volume of the host.",
    ),
    Cause(
        "webhook-denied",
        "Kubernetes: `admission webhook … denied the request`, or a ValidatingAdmissionPolicy did",
        "{what}: {said}",
        "A rule of this cluster does not allow it, and its words say why: change the deployment, or ask for the "
        "rule to be changed.",
    ),
    Cause(
        "webhook-away",
        "Kubernetes: `failed calling webhook`: an admission webhook does not answer",
        "{what}: {said}",
        "That webhook is somebody else's, and Kubernetes takes nothing without it: is it running? It is tried again.",
    ),
    Cause(
        "forbidden",
        "Kubernetes: the daemon's Role lacks a right",
        "the daemon may not {verb} {resource}{group} in namespace {namespace}:",
        "give its Role there the verb '{verb}' on '{resource}'",
    ),
    Cause(
        "operator-deaf",
        "Kubernetes: a DaskCluster without a scheduler's Deployment for longer than "
        "FLOWGROUP_KUBERNETES_OPERATOR_TIMEOUT_S",
        "the Dask operator has made no scheduler for DaskCluster {name} within {timeout_s:.0f} s:",
        "is it running, and does it watch namespace {namespace}?",
    ),
)

ROWS = (*MEMORY, *NODES, *IMAGES, *STARTING, *PLACES, *REFUSED)
