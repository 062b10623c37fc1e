"""Whose certificates a store's address is checked against, read once for a process and its forks: that takes 50 ms."""

import ssl
from functools import cache

import httpx

from flowgroup.settings import certificates


def verifying(address: str) -> ssl.SSLContext | bool:
    """httpx's `verify` for an address: the authorities that the environment names, or the usual ones; none for plain HTTP."""
    return _authorities(*certificates()) if address.startswith("https:") else False


def read() -> None:
    """In the zygote, so that children find the usual ones read."""
    _authorities(*certificates())


@cache
def _authorities(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()  # it looks at both variables by itself
