"""
Who vouches for a bundle: Ed25519 over the statement's text.

Nothing here opens a bundle, so the daemon may check what it can before it starts a cluster. A public key is the
base64 of its 32 raw bytes; a file `<name>.pub` holds one on a line.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement

_RAW_BYTES = 32


class KeyPair(NamedTuple):
    """Where `new_pair` has put the two keys, and the public one's short name."""

    private: Path
    public: Path
    key_id: str


def new_pair(folder: Path, name: str = "flowgroup") -> KeyPair:
    """
    Make `<folder>/<name>.key` (PEM, mode 0600) and `<folder>/<name>.pub`.

    Raises Refused when either is there already: a lost key cannot be made again.
    """
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if path.exists():
            raise Refused(f"{path} exists already; choose another --name or --folder, or move it away first")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text = _encoded(key.public_key())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(private, pem, mode=0o600)
        _write(public, f"{text}\n".encode(), mode=0o644)
    except OSError as exc:
        raise Refused(f"cannot write the key pair {name!r} into {folder}: {exc}") from exc
    return KeyPair(private, public, key_id(text))


def key_id(public: str) -> str:
    """A public key's short name: 16 hex digits of its hash."""
    return hashlib.sha256(_raw(public, "the public key")).hexdigest()[:16]


def public_of(private_key: Path) -> str:
    """The public half of a private key's file. Raises Refused."""
    return _encoded(_private(private_key).public_key())


def sign(statement_text: str, private_key: Path) -> tuple[str, str]:
    """Sign a statement's canonical text: (the signature in base64, the key's id). Raises Refused."""
    key = _private(private_key)
    signature = base64.b64encode(key.sign(statement_text.encode())).decode()
    return signature, key_id(_encoded(key.public_key()))


def load_public(path: Path) -> tuple[str, ...]:
    """
    The public keys of a .pub file, or of every .pub file in a folder, in the order of their names.

    Raises Refused when there is none: a folder without keys must not mean that nothing is checked.
    """
    files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not files:
        raise Refused(f"{path} holds no public key (*.pub); `flowgroup keys new --folder {path}` makes a pair")
    return tuple(_public_text(file) for file in files)


def check(ref: BundleRef, public_keys: Sequence[str], *, deployment: str, version: str | None) -> Statement:
    """
    The statement of `ref`, once it is certain that it is the author's and about this deployment's version.

    With `public_keys` the signature must be by one of them; without, no signature is required. Raises Refused.
    """
    statement = _parsed(ref)
    if public_keys:
        _verify(ref, public_keys, statement)
    if statement.deployment != deployment:
        raise Refused(
            f"the bundle {ref.address} was made for the deployment {statement.deployment!r}, not for {deployment!r}: "
            "deploy the flow again under the name that it should have"
        )
    if statement.version != version:
        raise Refused(
            f"the bundle of {deployment!r} is version {statement.version}, but the deployment says "
            f"{version or 'none'}: somebody changed one of the two; deploy the flow again"
        )
    return statement


def _parsed(ref: BundleRef) -> Statement:
    try:
        statement = Statement.model_validate_json(ref.statement)
    except ValidationError as exc:
        told = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'text'}: {error['msg']}" for error in exc.errors()
        )
        raise Refused(f"the statement about the bundle {ref.address} is wrong ({told}): deploy the flow again") from exc
    if statement.canonical() != ref.statement:
        raise Refused(
            f"the statement about the bundle {ref.address} is not as flowgroup writes it: deploy the flow again"
        )
    return statement


def _verify(ref: BundleRef, public_keys: Sequence[str], statement: Statement) -> None:
    known = {key_id(public): public for public in public_keys}
    names = ", ".join(sorted(known))
    if ref.signature is None or ref.key_id is None:
        raise Refused(
            f"the bundle of {statement.deployment!r} is not signed, and only signed ones may run here (keys: {names}): "
            "deploy it again with signing_key= or FLOWGROUP_SIGNING_KEY"
        )
    if ref.key_id not in known:
        raise Refused(
            f"the bundle of {statement.deployment!r} is signed with the key {ref.key_id}, which is not trusted here "
            f"(trusted: {names}): sign it with one of those, or add its .pub to the daemon's public keys"
        )
    key = Ed25519PublicKey.from_public_bytes(_raw(known[ref.key_id], "the public key"))
    try:
        key.verify(base64.b64decode(ref.signature, validate=True), ref.statement.encode())
    except (InvalidSignature, binascii.Error) as exc:
        raise Refused(
            f"the signature of the bundle of {statement.deployment!r} does not fit its statement (key {ref.key_id}): "
            "somebody changed one of the two; deploy the flow again"
        ) from exc


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.expanduser().read_bytes(), password=None)
    except OSError as exc:
        raise Refused(f"cannot read the signing key {path}: {exc.strerror}; `flowgroup keys new` makes a pair") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Refused(
            f"{path} is not a private key without a passphrase in PEM; `flowgroup keys new` makes one"
        ) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"{path} is not an Ed25519 key; `flowgroup keys new` makes one")
    return key


def _public_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Refused(f"cannot read the public key {path}: {exc}; `flowgroup keys new` makes a pair") from exc
    _raw(text, str(path))
    return text


def _encoded(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def _raw(public: str, whose: str) -> bytes:
    try:
        raw = base64.b64decode(public, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _RAW_BYTES:
        raise Refused(
            f"{whose} is not an Ed25519 public key in base64; give the .pub file that `flowgroup keys new` made"
        )
    return raw


def _write(path: Path, data: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
