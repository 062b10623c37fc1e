"""
Who may speak with a cluster's pods, and with whom they may. Pure.

A cluster's Dask ports have no password: only its own pods reach them. Its driver alone reaches the daemon and the relay.
"""

import ipaddress
import re
from typing import Any

from flowgroup.edge.kubernetes.names import CLUSTER, DASK_COMPONENT, DRIVER, ROLE, Ground
from flowgroup.edge.kubernetes.pods import DASHBOARD_PORT, SCHEDULER_PORT
from flowgroup.errors import Refused
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import ClusterName, RelayName

Json = dict[str, Any]
_DNS_PORTS = (53, 5353)  # a cluster's DNS server may listen on 5353 behind its Service's 53
_SERVICE = re.compile(r"^[^.]+\.(?P<namespace>[^.]+)\.svc(\.|$)")
_NAMESPACE = "namespace/"
_NAMED = "kubernetes.io/metadata.name"


def whole(name: ClusterName, ground: Ground) -> Json:
    """The spec of the policy for all pods of a cluster."""
    own = {"podSelector": {"matchLabels": {CLUSTER: name}}}
    dns = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    egress: list[Json] = [{"ports": dns}, {"to": [own]}]
    return {
        "podSelector": {"matchLabels": {CLUSTER: name}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [own]}],
        "egress": egress + [_rule(said, "FLOWGROUP_KUBERNETES_EGRESS") for said in ground.settings.egress],
    }


def of_driver(name: ClusterName, ground: Ground, relay: RelayName) -> Json:
    """The spec of what the driver may reach beside that."""
    settings = ground.settings
    egress = [_to(Endpoint.parse(address)) for address in (settings.daemon_address, ground.at(relay))]
    egress += [_rule(said, "FLOWGROUP_KUBERNETES_DRIVER_EGRESS") for said in settings.driver_egress]
    return {
        "podSelector": {"matchLabels": {CLUSTER: name, ROLE: DRIVER}},
        "policyTypes": ["Egress"],
        "egress": egress,
    }


def of_operator(name: ClusterName, operator_namespace: str) -> Json:
    """The spec of the operator's way to a cluster's scheduler."""
    ports = [{"port": port, "protocol": "TCP"} for port in (SCHEDULER_PORT, DASHBOARD_PORT)]
    return {
        "podSelector": {"matchLabels": {CLUSTER: name, DASK_COMPONENT: "scheduler"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [_in_namespace(operator_namespace)], "ports": ports}],
    }


def of_dashboard(name: ClusterName, ground: Ground) -> Json | None:
    """The spec of the daemon's way to the scheduler's dashboard; None where nobody can say where the daemon is."""
    daemon = _to(Endpoint.parse(ground.settings.daemon_address)).get("to")
    if not (ground.dashboard and daemon):
        return None
    return {
        "podSelector": {"matchLabels": {CLUSTER: name, DASK_COMPONENT: "scheduler"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": daemon, "ports": [{"port": DASHBOARD_PORT, "protocol": "TCP"}]}],
    }


def check(ground: Ground) -> None:
    """Raises Refused when a setting about the network cannot be read."""
    if ground.settings.network_policy:
        whole(ClusterName("x"), ground)
        for relay in ground.settings.relay_address:
            of_driver(ClusterName("x"), ground, RelayName(relay))


def _to(address: Endpoint) -> Json:
    """A Service is reached at its pods, so its namespace is what can be named; another host is an address or anything."""
    rule: Json = {"ports": [{"port": address.port, "protocol": "TCP"}]}
    service = _SERVICE.match(address.host)
    if service:
        return {"to": [_in_namespace(service["namespace"])], **rule}
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return rule
    return {"to": [{"ipBlock": {"cidr": f"{ip}/{ip.max_prefixlen}"}}], **rule}


def _rule(said: str, setting: str) -> Json:
    """`10.0.0.0/8`, `10.1.2.3/32:443`, `[fd00::]/8:443`, `namespace/minio`, `namespace/minio:9000`."""
    peer, port = _port_of(said, setting)
    rule: Json = {"ports": [{"port": port, "protocol": "TCP"}]} if port else {}
    if peer.startswith(_NAMESPACE):
        return {"to": [_in_namespace(peer.removeprefix(_NAMESPACE))], **rule}
    try:
        network = ipaddress.ip_network(peer.replace("[", "").replace("]", ""))
    except ValueError as exc:
        raise _unreadable(said, setting) from exc
    return {"to": [{"ipBlock": {"cidr": str(network)}}], **rule}


def _port_of(said: str, setting: str) -> tuple[str, int | None]:
    head, colon, tail = said.rpartition(":")
    if not colon or "/" in tail or ("[" not in said and head.count(":")):
        return said, None
    if not tail.isdecimal() or not 0 < int(tail) < 65536:  # noqa: PLR2004
        raise _unreadable(said, setting)
    return head, int(tail)


def _unreadable(said: str, setting: str) -> Refused:
    return Refused(
        f"{said!r} in {setting} is neither a CIDR such as 10.0.0.0/8:443 nor namespace/NAME:PORT (the port may be left out)"
    )


def _in_namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {_NAMED: name}}}
