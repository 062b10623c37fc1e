"""
What the chart's Job and CronJob do: see that the Secrets hold what they should, and change only what does not.

In: names of Secrets. Out: for each of them, a word on what was done. Asked again, it changes nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flowgroup.edge.certs import making
from flowgroup.edge.certs.making import Pair

_CONTROL_KEY_BYTES = 32


class Secrets(Protocol):
    """The Secrets of one namespace. `write` raises Transient when somebody else has changed the Secret meanwhile."""

    async def read(self, name: str) -> "Held": ...
    async def write(self, name: str, held: "Held", data: Mapping[str, bytes]) -> None: ...


@dataclass(frozen=True, slots=True)
class Held:
    """What a Secret holds now, by key. `version` is the API's resourceVersion."""

    data: Mapping[str, bytes]
    version: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Names of Secrets: of the CA, of the control key, and of servers' certificates with the hosts that each is for.

    None: somebody else takes care of it. Without a CA no certificates are made.
    """

    ca: str | None
    control: str | None
    leaves: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A sentence for each Secret, and what trusts the certificates: PEM, or None without a CA of ours."""

    said: list[str]
    trusted: bytes | None


async def keep(there: Secrets, wanted: Wanted, now: datetime) -> Kept:
    """
    Make what is missing, and what is to be made again. `now` is aware.

    A new CA follows an old one in `ca.crt`, so that who trusts the file trusts servers that still show the old one.
    Raises Transient and Permanent.
    """
    done: list[str] = []
    trusted: bytes | None = None
    if wanted.ca is not None:
        ca, trusted, said = await _keep_ca(there, wanted.ca, now)
        done.append(said)
        for name, hosts in wanted.leaves.items():
            done.append(await _keep_leaf(there, name, (ca, trusted), hosts, now))
    if wanted.control is not None:
        done.append(await _keep_control(there, wanted.control))
    return Kept(done, trusted)


async def _keep_ca(there: Secrets, name: str, now: datetime) -> tuple[Pair, bytes, str]:
    held = await there.read(name)
    before = held.data.get("ca.crt", b"")
    ca = Pair(before, held.data.get("ca.key", b""))
    why = making.why_renew_ca(ca, now) if ca.certificate and ca.key else "it was not there"
    if why is None:
        return ca, before, f"{name}: kept"
    ca = making.make_ca(name, now)
    trusted = ca.certificate + _still_good(before, now)
    await there.write(name, held, {"ca.crt": trusted, "ca.key": ca.key})
    return ca, trusted, f"{name}: made, for {why}"


def _still_good(before: bytes, now: datetime) -> bytes:
    """The newest of the former CAs, if it is one that somebody may still show."""
    return making.first_of(before) if making.is_valid(before, now) else b""


async def _keep_leaf(there: Secrets, name: str, ca: tuple[Pair, bytes], hosts: Sequence[str], now: datetime) -> str:
    pair, trusted = ca
    held = await there.read(name)
    shown, key = held.data.get("tls.crt", b""), held.data.get("tls.key", b"")
    why = making.why_renew(shown, pair.certificate, hosts, now) if shown and key else "it was not there"
    if why is None and held.data.get("ca.crt") == trusted:
        return f"{name}: kept"
    leaf = Pair(shown, key) if why is None else making.make_leaf(pair, hosts, now)
    await there.write(name, held, {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": trusted})
    return f"{name}: made, for {why or 'there is another CA'}"


async def _keep_control(there: Secrets, name: str) -> str:
    held = await there.read(name)
    if held.data.get("key"):
        return f"{name}: kept"
    await there.write(name, held, {"key": secrets.token_urlsafe(_CONTROL_KEY_BYTES).encode()})
    return f"{name}: made, for it was not there"
