"""Whose certificates are trusted: read once, and by what the environment says at the time."""

import ssl
from pathlib import Path

import certifi
import pytest

from flowgroup.driver.trust import read, verifying


def test_plain_http_needs_no_certificates_and_others_are_read_once() -> None:
    assert verifying("http://127.0.0.1:1/x") is False
    read()
    made = verifying("https://store.example/x")
    assert isinstance(made, ssl.SSLContext)
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert verifying("https://other.example/y") is made


def test_a_run_that_names_authorities_of_its_own_has_those(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = verifying("https://store.example/x")
    pem = Path(certifi.where()).read_text()
    end = "-----END CERTIFICATE-----\n"
    (tmp_path / "one.pem").write_text(pem.partition(end)[0] + end)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    own = verifying("https://store.example/x")
    assert own is not usual
    assert isinstance(own, ssl.SSLContext)
    assert len(own.get_ca_certs()) == 1
