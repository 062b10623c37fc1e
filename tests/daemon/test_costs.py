"""What clusters cost, from what their drivers say; the time between looks is the test's."""

from collections.abc import Iterator

import pytest

from flowgroup import metrics
from flowgroup.daemon.cluster import Phase
from flowgroup.daemon.costs import OTHER, Costs, Named
from flowgroup.daemon.view import Line, View
from flowgroup.edge.kubernetes.sizes import Size, Sizes
from flowgroup.model.ids import ClusterName, FlowId
from flowgroup.model.orders import GroupLevel, Status
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup

_PER_GROUP = (metrics.CLUSTER_SECONDS, metrics.CPU_SECONDS, metrics.MEMORY_SECONDS, metrics.GPU_SECONDS)


@pytest.fixture(autouse=True)
def _from_nothing() -> Iterator[None]:
    for metric in _PER_GROUP:
        metric.clear()
    yield
    for metric in _PER_GROUP:
        metric.clear()


class World:
    """Clusters and their drivers, as the test wants them."""

    def __init__(self) -> None:
        self.there: dict[ClusterName, ClusterSpec] = {}
        self.phase: dict[ClusterName, Phase] = {}
        self.views: dict[ClusterName, View] = {}

    def add(self, spec: ClusterSpec, phase: Phase = "busy", **status: object) -> ClusterName:
        self.there[spec.name], self.phase[spec.name] = spec, phase
        self.say(spec.name, **status)
        return spec.name

    def say(self, name: ClusterName, **status: object) -> None:
        self.view(name).line = Line.__new__(Line)
        self.view(name).status = Status.model_validate({"ready": True, **status})

    def specs(self) -> dict[ClusterName, ClusterSpec]:
        return self.there

    def phases(self) -> dict[ClusterName, Phase]:
        return self.phase

    def view(self, cluster: ClusterName) -> View:
        return self.views.setdefault(cluster, View(cluster))


def spec(flow: str = "etl", **fields: object) -> ClusterSpec:
    return ClusterSpec.model_validate({"flow_id": FlowId(flow), "flow_name": flow, "isolation": "pool", **fields})


def costs(world: World, *, most: int = 5) -> Costs:
    made = Costs(world, world, Sizes({"big": Size(gpu=2)}).gpus, "pool", Named(most))
    made.look(0.0)
    return made


def spent(metric: str, group: str = "etl", **labels: str) -> float | None:
    return metrics.DAEMON.get_sample_value(f"flowgroup_cluster_{metric}_total", {"flow_group": group, **labels})


def test_time_is_counted_by_phase_and_a_cluster_that_says_nothing_has_only_that() -> None:
    world = World()
    counting = costs(world)
    name = world.add(spec(), "starting")
    world.view(name).status = None
    counting.look(5.0)
    world.phase[name] = "idle"
    counting.look(7.0)
    assert (spent("seconds", phase="starting"), spent("seconds", phase="idle")) == (5.0, 7.0)
    assert spent("cpu_seconds") == 0.0


def test_a_cluster_whose_driver_has_left_costs_its_time_alone() -> None:
    world = World()
    counting = costs(world)
    name = world.add(spec(workers=1), groups={"default": GroupLevel(wanted=1, there=1, cores=1.0)})
    counting.look(5.0)
    world.view(name).line = None
    counting.look(5.0)
    assert (spent("cpu_seconds"), spent("seconds", phase="busy")) == (5.0, 10.0)


def test_a_drivers_processor_time_is_what_came_since_and_survives_its_restart() -> None:
    world = World()
    counting = costs(world)
    name = world.add(spec(), cpu_s=3.0, memory_bytes=100)
    counting.look(5.0)
    world.say(name, cpu_s=4.5, memory_bytes=300)
    counting.look(5.0)
    world.say(name, cpu_s=0.5)
    counting.look(5.0)
    assert spent("cpu_seconds") == pytest.approx(3.0 + 1.5 + 0.5)
    assert spent("memory_byte_seconds") == pytest.approx(5 * 100 + 5 * 300)


def test_what_a_cluster_used_under_a_former_daemon_is_not_counted_again() -> None:
    world = World()
    name = world.add(spec(), cpu_s=1000.0)
    counting = costs(world)
    world.say(name, cpu_s=1002.0)
    counting.look(5.0)
    assert spent("cpu_seconds") == pytest.approx(2.0)


def test_workers_use_cores_and_memory_and_hold_gpus() -> None:
    world = World()
    counting = costs(world)
    group = WorkerGroup(name="gpu", count=3, size="big", resources={"amd.com/gpu": 1})
    levels = {
        "default": GroupLevel(wanted=2, there=2, cores=1.5, memory_bytes=10),
        "gpu": GroupLevel(wanted=3, there=2, cores=0.5, memory_bytes=20),
    }
    world.add(spec(workers=2, worker_groups=(group,)), groups=levels)
    counting.look(10.0)
    assert spent("cpu_seconds") == pytest.approx(20.0)
    assert spent("memory_byte_seconds") == pytest.approx(300.0)
    assert spent("gpu_seconds") == pytest.approx(10 * 2 * 3)
    assert metrics.DAEMON.get_sample_value("flowgroup_workers", {"state": "wanted"}) == 5
    assert metrics.DAEMON.get_sample_value("flowgroup_workers", {"state": "there"}) == 4


def test_what_is_said_is_kept_within_what_may_be() -> None:
    world = World()
    counting = costs(world)
    lie = GroupLevel(wanted=1, there=1_000_000, cores=1e300, memory_bytes=10**30)
    world.add(spec(workers=1, worker_size="big"), groups={"default": lie, "no-such-group": lie}, cpu_s=1e300)
    counting.look(1.0)
    assert spent("gpu_seconds") == 2.0
    assert (spent("cpu_seconds") or 0) <= 2 * 1024
    assert (spent("memory_byte_seconds") or 0) <= 2.0**45


def test_a_group_is_named_by_its_flow_and_an_isolation_key_of_its_own() -> None:
    world = World()
    counting = costs(world)
    world.add(spec())
    world.add(spec(isolation="tenant-a"))
    counting.look(1.0)
    assert spent("seconds", phase="busy") == spent("seconds", "etl (tenant-a)", phase="busy") == 1.0


def test_only_the_dearest_groups_have_series_and_the_sum_is_right() -> None:
    world = World()
    counting = costs(world, most=2)
    for number in range(6):
        world.add(spec(f"flow-{number}"))
    counting.look(10.0)
    assert _groups() == {"flow-0", "flow-1", OTHER}
    assert _sum() == 60.0
    for view in world.views.values():
        if view.cluster.startswith(("flow-4", "flow-5")):
            view.status = Status(ready=True, cpu_s=500.0)
    counting.look(10.0)
    counting._choose()
    others = spent("seconds", OTHER, phase="busy")
    counting.look(10.0)
    assert _groups() == {"flow-4", "flow-5", OTHER}
    assert (spent("seconds", OTHER, phase="busy") or 0) == (others or 0) + 40.0
    assert spent("seconds", "flow-5", phase="busy") == 10.0


def test_with_no_group_named_all_are_others() -> None:
    world = World()
    counting = costs(world, most=0)
    world.add(spec())
    counting.look(4.0)
    counting._choose()
    assert _groups() == {OTHER}


def _groups() -> set[str]:
    return {sample.labels["flow_group"] for family in metrics.CPU_SECONDS.collect() for sample in family.samples}


def _sum() -> float:
    samples = [sample for family in metrics.CLUSTER_SECONDS.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))
