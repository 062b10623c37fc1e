"""
A small certificate authority, and when one of its certificates is to be made again. Values in, PEM out: no I/O, no clock.

Keys are on P-256: what Python's, OpenSSL's and Go's TLS all take, and small.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_LIVES = timedelta(days=3650)
_LEAF_LIVES = timedelta(days=365)
_BACKDATED = timedelta(minutes=10)  # clocks of nodes differ
_RENEWED_AT = 1 / 3  # of its life is left


class Pair(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_ca(name: str, now: datetime) -> Pair:
    """A self-signed CA that lives ten years. `now` is aware."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), _subject(name)
    made = (
        _begun(subject, subject, key.public_key(), now, _CA_LIVES)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM), _pem(key))


def make_leaf(ca: Pair, hosts: Sequence[str], now: datetime) -> Pair:
    """A server's certificate for these host names, signed by `ca`; it lives a year. Raises ValueError for a broken CA."""
    issuer, issuer_key = _certificate(ca.certificate), _key(ca.key)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _begun(_subject(hosts[0]), issuer.subject, key.public_key(), now, _LEAF_LIVES)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM), _pem(key))


def why_renew(leaf: bytes, ca: bytes, hosts: Sequence[str], now: datetime) -> str | None:
    """Why a certificate (PEM) is to be made again: None while it is good, signed by `ca` and for exactly these hosts."""
    try:
        is_for, issuer = _certificate(leaf), _certificate(ca)
        names = is_for.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        is_for.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return "it is not one that this CA has signed"
    if set(names.get_values_for_type(x509.DNSName)) != set(hosts):
        return "it is for other host names"
    return _why_old(is_for, now)


def why_renew_ca(ca: Pair, now: datetime) -> str | None:
    """Why a CA is to be made again: None while its key fits and it has long to live."""
    try:
        certificate, key = _certificate(ca.certificate), _key(ca.key)
    except (ValueError, TypeError):
        return "it cannot be read"
    if certificate.public_key() != key.public_key():
        return "its key is another's"
    return _why_old(certificate, now)


def first_of(bundle: bytes) -> bytes:
    """The first certificate of a PEM file with several. Raises ValueError when there is none."""
    return x509.load_pem_x509_certificates(bundle)[0].public_bytes(serialization.Encoding.PEM)


def is_valid(certificate: bytes, now: datetime) -> bool:
    """Whether a certificate (PEM) can be read and has not ended."""
    try:
        return _certificate(certificate).not_valid_after_utc > now
    except ValueError:
        return False


def _why_old(certificate: x509.Certificate, now: datetime) -> str | None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends - now >= (ends - begins) * _RENEWED_AT:
        return None
    return f"it ends on {ends:%Y-%m-%d}"


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lives: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lives)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # X.509's own limit


def _certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not on an elliptic curve")  # noqa: TRY004  as cryptography's own loaders do
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
