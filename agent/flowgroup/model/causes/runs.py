"""The causes that the daemon, the driver, the local backend and Dask tell, a row each."""

from flowgroup.model.causes.row import Cause

MEMORY = (
    Cause(
        "oom-child",
        "The driver: a run's process ended by SIGKILL, and `oom` and `oom_kill` in its cgroup's memory.events rose "
        "(v1: memory.oom_control)",
        "The {who} was ended by SIGKILL: the memory limit that it shares with its driver{limit} was used up{peak}, and the "
        "kernel chose it.",
        "Give the driver more by a larger driver_size (its unit's MemoryMax on one machine), let fewer runs share it "
        "(mode='per-run'), or hold less at once.",
    ),
    Cause(
        "oom-node",
        "`oom_kill` rose, and no limit of the cgroup was reached; on Kubernetes `OOMKilled` of a container without a limit",
        "The {who} was ended by SIGKILL: the whole machine was short of memory, and the kernel chose it{peak}.",
        "Give the machine more memory or run less on it; on Kubernetes a size whose request is its limit keeps others away.",
    ),
    Cause(
        "oom-group",
        "cgroup v2: `oom_group_kill` in memory.events rose (memory.oom.group), as under systemd's OOMPolicy=kill",
        "The {who} was ended with everything in its cgroup{limit}: memory ran out there{peak}, and the kernel ended the "
        "whole group.",
        "Raise the group's memory limit (MemoryMax of its unit), or set memory_limit_bytes so that a single run is ended "
        "first.",
    ),
    Cause(
        "memory-limit",
        "The driver: the processes of a run together passed the deployment's memory_limit_bytes",
        "The run used {used} of memory; its limit is {limit} (memory_limit_bytes).",
        "Raise memory_limit_bytes, or hold less at once.",
    ),
)

TIME = (
    Cause(
        "deadline",
        "Kubernetes: a pod's reason `DeadlineExceeded` (activeDeadlineSeconds)",
        "the {who}'s pod was ended because its time was up: {said}",
        "Something gave it activeDeadlineSeconds, which flowgroup does not: a rule of this cluster. Ask for "
        "more time there.",
    ),
    Cause(
        "cluster-timeout",
        "The daemon: a claimed run's cluster was not ready within FLOWGROUP_CLUSTER_TIMEOUT_S",
        "The run could not be started within {timeout_s:.0f} s (FLOWGROUP_CLUSTER_TIMEOUT_S): {said}",
        "It is tried again; where nodes take longer to come, raise FLOWGROUP_CLUSTER_TIMEOUT_S.",
    ),
    Cause(
        "no-workers",
        "The driver is there, and no worker has come: nothing says why",
        "no worker of cluster {name} is there yet, and nothing says why.",
        "Is the Dask operator running? `kubectl get pods` in the namespace of clusters shows its workers.",
    ),
)

DASK = (
    Cause(
        "scheduler-died",
        "The driver: the cluster's Dask scheduler takes no connections any more",
        "The Dask scheduler at {address} ended, and what it held is lost{why}.",
        "New runs get a new cluster; start the run again. If it needs more memory: a larger scheduler_size.",
    ),
    Cause(
        "killed-worker",
        "Dask: KilledWorker: a task's workers ended, one after the other, while they ran it",
        "Every worker that ran the task {task} ended ({times} in a row), the last of them {worker}{why}.",
        "Give the workers more memory by a larger worker_size or worker_memory, or split the task; a crash in "
        "native code ends a "
        "worker too.",
    ),
    Cause(
        "worker-lost",
        "Dask: a result's future was cancelled because its worker, or the scheduler, has gone",
        "What the workers held is lost ({what}){why}.",
        "Start the run again; tasks with persisted results are not computed anew.",
    ),
    Cause(
        "versions-differ",
        "The driver compared its versions with the scheduler's and the workers'",
        "The driver and the Dask cluster have different versions of what they exchange:\n{table}\n",
        "Use one image for all of them, or install the same versions.",
    ),
)

CODE = (
    Cause(
        "bundle-refused",
        "The daemon or the run's process: the bundle's signature, hash or statement is not right, or it is not there",
        "{said}",
        "Runs execute only what was deployed and signed: deploy the flow again.",
    ),
    Cause(
        "storage-away",
        "The run's process: the bundle's store does not answer for minutes",
        "the bundle's store does not answer: {said}",
        "Is the store up, and is its address right? On Kubernetes clusters reach only what the chart's "
        "jobs.egress names.",
    ),
    Cause(
        "deployment-refused",
        "The daemon: what the deployment, the pool or the run says cannot be carried out",
        "{said}",
        "Correct it, and deploy the flow again or start another run.",
    ),
    Cause(
        "code-not-loaded",
        "The run's process: importing or unpickling the flow's code raised",
        "The flow's code could not be loaded: {said}",
        "{help}",
    ),
    Cause(
        "flow-not-run",
        "The run's process: Prefect's engine raised before it could tell how the run ended",
        "The flow could not run: {said}",
        "{help}",
    ),
)

PROCESSES = (
    Cause(
        "child-signal",
        "The driver: a run's process ended by a signal, and nothing else says why",
        "The run's process was ended by {signal}.",
        "{means}",
    ),
    Cause(
        "child-exit",
        "The driver: a run's process ended with an exit code, and its engine had not told the run's end",
        "The run's process ended with exit code {status}.",
        "{means}",
    ),
    Cause(
        "child-gone",
        "The driver knows no more of a run's process",
        "The run's process is gone, and nothing is known of how it ended.",
        "The machine may have been restarted: start the run again.",
    ),
    Cause(
        "process-ended",
        "The local backend: a process of the cluster has ended",
        "the {who} process of cluster {name} ended.",
        "The last lines of its output say why.",
    ),
    Cause(
        "workers-end",
        "The local backend: workers of a cluster have ended more than five times in five minutes",
        "the workers of cluster {name} end again and again.",
        "The last lines of their output say why.",
    ),
    Cause(
        "zygote-died",
        "The driver: the process that forks the runs has ended",
        "the driver's zygote died: was it killed for its memory?",
        "New runs get a new cluster.",
    ),
    Cause(
        "driver-restarted",
        "The daemon: another driver process speaks for the cluster, and the run is not among its runs",
        "The driver of cluster {name} was started again while the run was on it, and the run's process is gone.",
        "The cluster's logs say why.",
    ),
)

ROWS = (*MEMORY, *TIME, *DASK, *CODE, *PROCESSES)
