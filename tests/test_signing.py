"""Keys, signatures, and what `check` refuses."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowgroup import signing
from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement


def _statement(**changes: object) -> Statement:
    values = {
        "sha256": "0" * 64,
        "size": 10,
        "deployment": "etl/prod",
        "version": "v1",
        "python": "3.11",
        "cloudpickle": "3.1.2",
        "prefect": "3.8.8",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    }
    return Statement.model_validate(values)


def _ref(text: str, signature: str | None = None, key_id: str | None = None) -> BundleRef:
    return BundleRef(address="file:///x.zip", statement=text, signature=signature, key_id=key_id)


def _signed(text: str, key: Path) -> BundleRef:
    return _ref(text, *signing.sign(text, key))


@pytest.fixture
def pair(tmp_path: Path) -> signing.KeyPair:
    return signing.new_pair(tmp_path / "keys", "author")


def test_a_new_pair_is_private_and_never_overwritten(pair: signing.KeyPair) -> None:
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" in pair.private.read_bytes()
    before = pair.private.read_bytes()
    with pytest.raises(Refused, match=r"author\.key exists already"):
        signing.new_pair(pair.private.parent, "author")
    assert pair.private.read_bytes() == before
    pair.private.unlink()
    with pytest.raises(Refused, match=r"author\.pub exists already"):
        signing.new_pair(pair.private.parent, "author")


def test_a_signed_statement_passes_with_its_key_among_others(pair: signing.KeyPair) -> None:
    signing.new_pair(pair.private.parent, "another")
    keys = signing.load_public(pair.private.parent)
    assert len(keys) == 2
    statement = _statement()
    ref = _signed(statement.canonical(), pair.private)
    assert ref.key_id == pair.key_id == signing.key_id(signing.public_of(pair.private))
    assert signing.check(ref, keys, deployment="etl/prod", version="v1") == statement


def test_without_keys_no_signature_is_needed_but_the_rest_is_checked() -> None:
    text = _statement().canonical()
    assert signing.check(_ref(text), (), deployment="etl/prod", version="v1").size == 10
    with pytest.raises(Refused, match="was made for the deployment 'etl/prod', not for 'etl/dev'"):
        signing.check(_ref(text), (), deployment="etl/dev", version="v1")


def _unsigned(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _ref(text)


def _unknown(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed(text, other.private)


def _claims_the_known_key(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _ref(text, signing.sign(text, other.private)[0], pair.key_id)


def _changed_afterwards(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    ref = _signed(text, pair.private)
    return _ref(_statement(sha256="1" * 64).canonical(), ref.signature, ref.key_id)


def _no_base64(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _ref(text, "not base64!", pair.key_id)


def _replayed(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed(_statement(version="v0").canonical(), pair.private)


def _of_another(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed(_statement(deployment="other/prod").canonical(), pair.private)


def _not_canonical(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed(text.replace('","', '", "'), pair.private)


def _no_json(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed("{", pair.private)


def _more_fields(text: str, pair: signing.KeyPair, other: signing.KeyPair) -> BundleRef:
    return _signed(text.replace('"v":1', '"v":2'), pair.private)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_unsigned, "is not signed.*FLOWGROUP_SIGNING_KEY"),
        (_unknown, "not trusted here.*add its .pub"),
        (_claims_the_known_key, "does not fit its statement"),
        (_changed_afterwards, "does not fit its statement"),
        (_no_base64, "does not fit its statement"),
        (_replayed, "is version v0, but the deployment says v1"),
        (_of_another, "was made for the deployment 'other/prod'"),
        (_not_canonical, "not as flowgroup writes it"),
        (_no_json, "statement about the bundle file:///x.zip is wrong"),
        (_more_fields, "is wrong .v: .*deploy the flow again"),
    ],
)
def test_what_is_not_the_authors_is_refused(make, message: str, pair: signing.KeyPair, tmp_path: Path) -> None:
    other = signing.new_pair(tmp_path / "elsewhere", "stranger")
    ref = make(_statement().canonical(), pair, other)
    keys = signing.load_public(pair.public)
    with pytest.raises(Refused, match=message):
        signing.check(ref, keys, deployment="etl/prod", version="v1")


def test_a_deployment_without_a_version_is_refused(pair: signing.KeyPair) -> None:
    ref = _signed(_statement().canonical(), pair.private)
    with pytest.raises(Refused, match="deployment says none"):
        signing.check(ref, signing.load_public(pair.public), deployment="etl/prod", version=None)


def test_keys_that_are_none_are_refused_with_the_remedy(pair: signing.KeyPair, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.pub").write_text("hello")
    (tmp_path / "bad.key").write_text("hello")
    for call in (
        lambda: signing.load_public(tmp_path / "empty"),
        lambda: signing.load_public(tmp_path / "missing.pub"),
        lambda: signing.load_public(tmp_path / "bad.pub"),
        lambda: signing.sign("x", tmp_path / "bad.key"),
        lambda: signing.sign("x", tmp_path / "missing.key"),
        lambda: signing.sign("x", pair.public),
    ):
        with pytest.raises(Refused, match="flowgroup keys new"):
            call()
