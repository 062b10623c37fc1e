"""Secrets are made once, kept while they are good, and made again before they end."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from flowgroup.edge.certs import making
from flowgroup.edge.certs.keeping import Held, Wanted, keep
from flowgroup.errors import Transient

NOW = datetime(2026, 11, 25, tzinfo=UTC)
WANTED = Wanted(ca="ca", control="control", leaves={"daemon": ("daemon.ns.svc", "daemon"), "relay": ("relay.ns.svc",)})


@dataclass
class FakeSecrets:
    """Secrets in memory; `writes` are the names that were written, in order."""

    data: dict[str, dict[str, bytes]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    async def read(self, name: str) -> Held:
        return Held(dict(self.data.get(name, {})), str(self.versions.get(name, 0)))

    async def write(self, name: str, held: Held, data: dict[str, bytes]) -> None:
        if held.version != str(self.versions.get(name, 0)):
            raise Transient("changed meanwhile")
        self.data[name] = {**self.data.get(name, {}), **data}
        self.versions[name] = self.versions.get(name, 0) + 1
        self.writes.append(name)


async def test_from_nothing_everything_is_made_and_then_kept() -> None:
    there = FakeSecrets()
    assert [line.partition(",")[0] for line in (await keep(there, WANTED, NOW)).said] == [
        "ca: made",
        "daemon: made",
        "relay: made",
        "control: made",
    ]
    before = {name: dict(data) for name, data in there.data.items()}
    assert (await keep(there, WANTED, NOW)).said == ["ca: kept", "daemon: kept", "relay: kept", "control: kept"]
    assert there.data == before
    assert there.writes == ["ca", "daemon", "relay", "control"]
    assert set(there.data["daemon"]) == {"tls.crt", "tls.key", "ca.crt"}


async def test_openssl_trusts_what_was_made(tmp_path) -> None:
    there = FakeSecrets()
    await keep(there, WANTED, datetime.now(UTC))
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_bytes(there.data["daemon"][name])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    assert _shakes_hands(server, trusting, "daemon.ns.svc")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shakes_hands(server, trusting, "relay.ns.svc")


@pytest.mark.parametrize(
    ("passed", "made"),
    [
        (timedelta(days=200), []),
        (timedelta(days=250), ["daemon", "relay"]),
        (timedelta(days=2400), ["daemon", "relay"]),
        (timedelta(days=2500), ["ca", "daemon", "relay"]),
    ],
)
async def test_what_has_a_third_of_its_life_left_is_made_again(passed: timedelta, made: list[str]) -> None:
    there = FakeSecrets()
    await keep(there, WANTED, NOW)
    there.writes.clear()
    await keep(there, WANTED, NOW + passed)
    assert there.writes == made


async def test_a_new_ca_is_followed_by_the_old_one() -> None:
    there = FakeSecrets()
    await keep(there, WANTED, NOW)
    old = there.data["ca"]["ca.crt"]
    await keep(there, WANTED, NOW + timedelta(days=2500))
    assert there.data["ca"]["ca.crt"].endswith(old)
    assert there.data["relay"]["ca.crt"] == there.data["ca"]["ca.crt"] != old
    assert (await keep(there, WANTED, NOW + timedelta(days=2501))).said == [
        f"{n}: kept" for n in ("ca", "daemon", "relay", "control")
    ]


async def test_other_hosts_make_only_their_certificate_again() -> None:
    there = FakeSecrets()
    await keep(there, WANTED, NOW)
    more = Wanted("ca", "control", {**WANTED.leaves, "daemon": ("daemon.ns.svc", "other.ns.svc")})
    assert (await keep(there, more, NOW)).said == [
        "ca: kept",
        "daemon: made, for it is for other host names",
        "relay: kept",
        "control: kept",
    ]


@pytest.mark.parametrize(
    "broken", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_what_cannot_be_read_is_made_again(broken: bytes) -> None:
    there = FakeSecrets()
    await keep(there, WANTED, NOW)
    there.data["ca"]["ca.crt"] = there.data["relay"]["tls.crt"] = broken
    there.writes.clear()
    await keep(there, WANTED, NOW)
    assert there.writes == ["ca", "daemon", "relay"]


async def test_what_somebody_else_takes_care_of_is_left_alone() -> None:
    there = FakeSecrets()
    kept = await keep(there, Wanted(None, "control", {"daemon": ("daemon.ns.svc",)}), NOW)
    assert (kept.said, kept.trusted) == (["control: made, for it was not there"], None)
    assert there.writes == ["control"]


async def test_another_ca_of_the_same_name_is_noticed() -> None:
    there = FakeSecrets()
    await keep(there, WANTED, NOW)
    other = making.make_ca("ca", NOW)
    there.data["ca"] = {"ca.crt": other.certificate, "ca.key": other.key}
    assert (await keep(there, WANTED, NOW)).said[1] == "daemon: made, for it is not one that this CA has signed"


def _shakes_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> bool:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == len(ends):
            return True
    return False
