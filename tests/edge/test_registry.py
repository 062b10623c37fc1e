"""Asking registries for digests, over a fake that behaves as the specification says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flowgroup.edge.registry import wire
from flowgroup.edge.registry.digest import digest_of
from flowgroup.edge.registry.login import Login
from flowgroup.errors import FlowgroupError, Permanent, Transient
from flowgroup.model.image import ImageName, parse
from tests.fakes.registry import HOST, TOKENS, FakeRegistry, basic

ANN = Login("ann", "secret-of-ann")


def named(name: str) -> ImageName:
    found = parse(name)
    assert found is not None
    return found


def digest(
    registry: FakeRegistry, name: str = f"{HOST}/team/etl:1", login: Login | None = None, timeout_s: float = 5.0
) -> str:
    return digest_of(named(name), lambda _: login, timeout_s=timeout_s, transport=httpx.MockTransport(registry))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("etl", (None, "etl", "latest", None)),
        ("team/etl:1", (None, "team/etl", "1", None)),
        ("registry/etl:1", (None, "registry/etl", "1", None)),
        ("localhost/etl:1", ("localhost", "etl", "1", None)),
        ("localhost:5000/a/b_c/d__e:v1.0", ("localhost:5000", "a/b_c/d__e", "v1.0", None)),
        ("nodes:5000/etl", ("nodes:5000", "etl", "latest", None)),
        ("r.example/etl@sha256:" + "0" * 64, ("r.example", "etl", "latest", "sha256:" + "0" * 64)),
        ("[::1]:5000/etl:1@sha256:" + "0" * 64, ("[::1]:5000", "etl", "1", "sha256:" + "0" * 64)),
    ],
)
def test_an_images_name_is_taken_apart(name: str, parts: tuple[Any, ...]) -> None:
    found = named(name)
    assert (found.host, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize(
    "name", ["", "Etl", "a//b", "etl:", "etl@sha256:12", "x/{{ prefect.variables.i }}", "e:1\n", "https://r.example/e"]
)
def test_what_no_image_can_be_called_is_told_apart(name: str) -> None:
    assert parse(name) is None


def test_a_digest_is_asked_for_without_a_body() -> None:
    registry = FakeRegistry()
    pushed = registry.push("team/etl:1", "first")
    assert digest(registry) == pushed
    assert registry.shown() == [("HEAD", HOST, "")]
    assert "image.index" in registry.seen[0].headers["Accept"]


def test_where_the_header_is_missing_the_manifest_itself_is_hashed() -> None:
    registry = FakeRegistry(says_digest=False)
    pushed = registry.push("team/etl:1", "first")
    assert digest(registry) == pushed
    assert [method for method, *_ in registry.shown()] == ["HEAD", "GET"]


def test_a_token_that_everybody_gets_is_fetched() -> None:
    registry = FakeRegistry(wants="bearer", says_digest=False)
    pushed = registry.push("team/etl:1", "first")
    assert digest(registry) == pushed
    assert registry.shown() == [
        ("HEAD", HOST, ""),
        ("GET", TOKENS, ""),
        ("HEAD", HOST, "Bearer let-in"),
        ("GET", HOST, "Bearer let-in"),
    ]
    assert dict(registry.seen[1].url.params) == {"service": HOST, "scope": "repository:team/etl:pull"}


@pytest.mark.parametrize(
    ("wants", "login", "seen"),
    [
        ("basic", ANN, [("HEAD", HOST, basic("ann", "secret-of-ann"))]),
        ("bearer", ANN, [("GET", TOKENS, basic("ann", "secret-of-ann")), ("HEAD", HOST, "Bearer let-in")]),
        ("bearer", Login(None, "identity-of-ann"), [("POST", TOKENS, ""), ("HEAD", HOST, "Bearer let-in")]),
    ],
)
def test_a_login_is_shown_when_it_is_asked_for(wants: Any, login: Login, seen: list[tuple[str, str, str]]) -> None:
    registry = FakeRegistry(wants=wants, open_to_all=False)
    pushed = registry.push("team/etl:1", "first")
    assert digest(registry, login=login) == pushed
    assert registry.shown() == [("HEAD", HOST, ""), *seen]


@pytest.mark.parametrize(
    ("wants", "login", "reason"),
    [
        ("basic", None, "does not let you see it .401.: is `docker login` needed"),
        ("basic", Login("ann", "wrong"), "does not let you see it .401."),
        ("basic", Login(None, "identity-of-ann"), "does not let you see it .401."),
        ("bearer", None, r"tokens\.test gives no token for it .401.: is `docker login` needed"),
        ("bearer", Login("ann", "wrong"), "gives no token"),
        ("bearer", Login(None, "wrong"), "gives no token"),
    ],
)
def test_who_is_not_let_in_is_told_so(wants: Any, login: Login | None, reason: str) -> None:
    registry = FakeRegistry(wants=wants, open_to_all=False)
    registry.push("team/etl:1", "first")
    with pytest.raises(Permanent, match=reason) as caught:
        digest(registry, login=login)
    assert "wrong" not in str(caught.value)


def test_a_tag_that_there_is_not_is_told_by_the_registry_alone() -> None:
    with pytest.raises(Permanent, match="has no such image, or hides it"):
        digest(FakeRegistry())
    page = FakeRegistry(before=lambda _: httpx.Response(404, html="<h1>Not found</h1>"))
    with pytest.raises(Permanent, match=r"registry\.test does not answer as a registry does .404"):
        digest(page)


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (httpx.Response(200, html="<h1>Log in to the network</h1>"), Permanent, "not answer as a registry does .200"),
        (httpx.Response(200, json=[1]), Permanent, "not answer as a registry"),
        (httpx.Response(200, json={"schemaVersion": 1}), Permanent, "not answer as a registry"),
        (httpx.Response(200, text="[" * 100_000), Permanent, "not answer as a registry"),
        (httpx.Response(200, headers={"Docker-Content-Digest": "md5:1"}), Permanent, "not answer as a registry"),
        (httpx.Response(403), Permanent, "does not let you see it .403"),
        (httpx.Response(418), Permanent, "not answer as a registry does .418"),
        (httpx.Response(429), Transient, "has no time for it .429"),
        (httpx.Response(503), Transient, "has no time for it .503"),
        (
            httpx.Response(301, headers={"Location": "http://elsewhere.test/"}),
            Permanent,
            "'elsewhere.test' .*without TLS",
        ),
        (httpx.Response(301, headers={"Location": "/v2/again"}), Permanent, "redirects do not end"),
        (httpx.Response(401, headers={"WWW-Authenticate": "Negotiate"}), Permanent, "does not let you see it"),
        (httpx.Response(401, headers={"WWW-Authenticate": "Bearer"}), Permanent, "asked without TLS"),
        (httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://r.test/"'}), Permanent, "without TLS"),
        (httpx.Response(200, content=b" " * (wire.MAX_BODY_BYTES + 1)), Permanent, "has more than 4194304 bytes"),
        (httpx.ConnectTimeout("late"), Transient, "does not answer in time"),
        (httpx.ConnectError("[Errno 111] Connection refused"), Transient, "cannot be reached .*refused"),
        (httpx.RemoteProtocolError("what is this"), Transient, "cannot be reached .*what is this"),
        (httpx.DecodingError("no gzip"), Permanent, "answer cannot be used .no gzip"),
    ],
)
def test_a_registry_that_is_none_or_in_trouble_is_told(
    answer: httpx.Response | Exception, error: type[FlowgroupError], reason: str
) -> None:
    def before(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(error, match=reason):
        digest(FakeRegistry(before=before), login=ANN)


def test_a_server_of_tokens_that_talks_nonsense_is_told() -> None:
    for told in ({"token": 5}, {"token": "\N{SNOWMAN}"}, {}, []):

        def before(request: httpx.Request, told: Any = told) -> httpx.Response | None:
            return httpx.Response(200, json=told) if request.url.host == TOKENS else None

        with pytest.raises(Permanent, match="gives no token"):
            digest(FakeRegistry(wants="bearer", before=before))


@pytest.mark.parametrize("host", [f"{HOST}:443", HOST.upper(), f"{HOST}:5000"])
def test_a_host_may_be_written_in_several_ways(host: str) -> None:
    registry = FakeRegistry(wants="basic")
    pushed = registry.push("team/etl:1", "first")
    assert digest(registry, f"{host}/team/etl:1", login=ANN) == pushed


def test_a_redirect_is_followed_and_takes_no_login_to_another_host() -> None:
    registry = FakeRegistry(wants="basic")
    pushed = registry.push("team/etl:1", "first")

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "elsewhere.test":
            return httpx.Response(200, headers={"Docker-Content-Digest": pushed})
        if "Authorization" in request.headers:
            return httpx.Response(307, headers={"Location": "https://elsewhere.test/m"})
        return None

    registry.before = before
    assert digest(registry, login=ANN) == pushed
    assert registry.shown()[-1] == ("HEAD", "elsewhere.test", "")


def test_a_challenge_of_another_host_gets_no_login() -> None:
    def before(request: httpx.Request) -> httpx.Response:
        if request.url.host == HOST:
            return httpx.Response(307, headers={"Location": "https://elsewhere.test/m"})
        return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    registry = FakeRegistry(before=before)
    with pytest.raises(Permanent, match="does not let you see it"):
        digest(registry, login=ANN)
    assert all(not shown for *_, shown in registry.shown())


def test_an_identity_token_is_posted_to_nobody_whom_a_redirect_names() -> None:
    def before(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(307, headers={"Location": "https://x.test/"}) if request.url.host == TOKENS else None

    registry = FakeRegistry(wants="bearer", before=before)
    with pytest.raises(Permanent, match="gives no token"):
        digest(registry, login=Login(None, "identity-of-ann"))
    assert "x.test" not in [host for _, host, _ in registry.shown()]


def test_a_body_that_never_ends_is_left_in_time() -> None:
    class Drop(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b" "

    late = FakeRegistry(before=lambda _: httpx.Response(200, stream=Drop()))
    with pytest.raises(Transient, match="does not answer in time"):
        digest(late, timeout_s=0.2)


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("localhost", "http"),
        ("localhost:5000", "http"),
        ("127.0.0.1:5000", "http"),
        ("[::1]:5000", "http"),
        ("10.0.0.1:5000", "https"),
        ("localhost.example", "https"),
        ("nodes:5000", "https"),
    ],
)
def test_only_a_registry_of_this_machine_is_asked_without_tls(host: str, scheme: str) -> None:
    registry = FakeRegistry()
    registry.push("etl:1", "first")
    digest(registry, f"{host}/etl:1")
    assert str(registry.seen[0].url) == f"{scheme}://{host}/v2/etl/manifests/1"
