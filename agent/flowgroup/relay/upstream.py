"""Prefect's API as the relay speaks to it: where it is, and the one place that has the token."""

import asyncio
import json
import math
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TextIO

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from flowgroup.edge import forward
from flowgroup.edge.credentials import Credentials
from flowgroup.edge.files import KEY_CHARS_MIN, control_key
from flowgroup.errors import Refused, Transient
from flowgroup.relay.pace import Pace
from flowgroup.settings import PrefectSettings, RelaySettings, Settings

_CLOUD = "https://api.prefect.cloud/api"
# What of a child's headers goes on: nothing that says who it is, nothing that a proxy acts on.
_PASSED = frozenset(b"accept accept-encoding content-type user-agent idempotency-key traceparent tracestate".split())
_PASSED_PREFIXES = (b"x-prefect-", b"prefect-csrf-")
_OWN_OF_THE_ANSWER = (
    b"set-cookie",
    b"www-authenticate",
    b"alt-svc",
    b"strict-transport-security",
    b"location",
)


class Secrets(BaseModel):
    """What the relay is told on its standard input: one line of JSON, so that it stands in no environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_url: str = Field(pattern=r"^https?://")
    api_key: SecretStr | None = None
    api_auth_string: SecretStr | None = None
    api_key_file: Path | None = None
    api_auth_string_file: Path | None = None
    custom_headers: dict[str, SecretStr] = Field(default_factory=dict)
    control_key: SecretStr = Field(min_length=KEY_CHARS_MIN)


def read_secrets(stdin: TextIO) -> Secrets:
    """The one line on standard input. Raises Refused, which never repeats what was read."""
    line = stdin.readline()
    try:
        return Secrets.model_validate(json.loads(line))
    except ValidationError as exc:
        names = sorted(
            {str(error["loc"][0]) if error["loc"] else "object" for error in exc.errors(include_input=False)}
        )
        raise Refused(f"the relay's standard input is wrong in: {', '.join(names)}") from None
    except ValueError:
        raise Refused("the relay wants one line of JSON on its standard input (the daemon gives it)") from None


def secrets_of(settings: Settings) -> Secrets:
    """What the environment and the control key's file say. Raises Refused, naming the variable."""
    prefect = settings.prefect
    if prefect.api_url is None:
        raise Refused("PREFECT_API_URL is not set: the address of Prefect's API, for example http://127.0.0.1:4200/api")
    return Secrets(
        api_url=prefect.api_url,
        api_key=prefect.api_key,
        api_auth_string=prefect.api_auth_string,
        api_key_file=prefect.api_key_file,
        api_auth_string_file=prefect.api_auth_string_file,
        custom_headers={name: SecretStr(value) for name, value in prefect.client_custom_headers.items()},
        control_key=SecretStr(control_key(settings.relay)),
    )


class Upstream:
    """Prefect's API. Holds the token; shows it to nobody but the API."""

    def __init__(
        self,
        secrets: Secrets,
        client: forward.Passing,
        *,
        verify: ssl.SSLContext | None,
        settings: RelaySettings | None = None,
    ) -> None:
        """`settings` has the budget. Raises Refused when a file with the token cannot be read."""
        self.credentials = Credentials(
            key=secrets.api_key,
            auth_string=secrets.api_auth_string,
            key_file=secrets.api_key_file,
            auth_string_file=secrets.api_auth_string_file,
        )
        self.pace = Pace(settings.requests_per_minute, settings.records_per_minute) if settings else Pace()
        self._client = client
        self.verify = verify
        self.is_cloud = secrets.api_url.startswith(_CLOUD)
        self._url = httpx.URL(secrets.api_url.rstrip("/"))
        self._path = self._url.raw_path.rstrip(b"/")
        self._secrets = secrets

    def request(
        self, method: str, path: str, *, query: bytes, headers: forward.HeaderList, body: bytes, hold_s: float
    ) -> httpx.Request:
        """A call to `path` below the API's address, with the token. `path` is encoded already."""
        target = self._path + path.encode() + (b"?" + query if query else b"")
        ours = [(name.encode(), value.encode()) for name, value in self._authority().items()]
        replaced = {name for name, _ in ours}
        kept = [(name, value) for name, value in headers if _is_passed(name) and name not in replaced]
        return forward.build(method, self._url, kept + ours, body, hold_s=hold_s, target=target)

    async def exchange(self, request: httpx.Request, *, hold_s: float) -> tuple[httpx.Response, bytes | None]:
        """Send, within the budget, and read the answer if it is small, within `hold_s` seconds. Raises Transient."""
        until = asyncio.get_running_loop().time() + hold_s
        try:
            async with asyncio.timeout_at(until):
                await self.pace.turn()
        except TimeoutError as exc:
            raise Transient("no more calls a minute (FLOWGROUP_RELAY_REQUESTS_PER_MINUTE)") from exc
        return await forward.exchange(self._client, request, hold_s=until - asyncio.get_running_loop().time())

    def socket_url(self, path: str) -> str:
        """The websocket's address for `path` below the API's address."""
        scheme = "wss" if self._url.scheme == "https" else "ws"
        return str(self._url.copy_with(scheme=scheme)).rstrip("/") + path

    def socket_headers(self, user_agent: str | None) -> list[tuple[str, str]]:
        """
        The upgrade's headers: Prefect's proxies want the credentials there, its servers in the first frame.
        """
        return [*self._authority().items(), *([("user-agent", user_agent)] if user_agent else [])]

    def socket_token(self) -> str | None:
        """What goes into the first frame."""
        return self.credentials.word()

    def _authority(self) -> dict[str, str]:
        """Custom headers and credentials, as they are now."""
        made = {name.lower(): value.get_secret_value() for name, value in self._secrets.custom_headers.items()}
        made.pop("user-agent", None)
        if shown := self.credentials.shown():
            made["authorization"] = shown
        return made


def tls_of(settings: PrefectSettings) -> ssl.SSLContext:
    """How the API's certificate is checked, by Prefect's own settings. Raises Refused."""
    try:
        context = ssl.create_default_context(cafile=settings.api_ssl_cert_file)
    except (OSError, ssl.SSLError) as exc:
        raise Refused(
            f"cannot read the certificates in {settings.api_ssl_cert_file} (PREFECT_API_SSL_CERT_FILE): {exc}"
        ) from exc
    if settings.api_tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def answer_headers(response: httpx.Response) -> forward.HeaderList:
    """What of the API's headers goes back to a child."""
    lower = forward.passing_headers((name.lower(), value) for name, value in response.headers.raw)
    return [(name, value) for name, value in lower if name not in _OWN_OF_THE_ANSWER]


def object_in(raw: bytes) -> dict[str, Any]:
    """An answer's JSON; {} if it is not an object. Raises Transient when it is not JSON."""
    try:
        value = json.loads(raw)
    except ValueError as exc:
        raise Transient("the API's answer is not JSON") from exc
    return value if isinstance(value, dict) else {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the API asked for: seconds, or a date (RFC 9110)."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_passed(name: bytes) -> bool:
    return name in _PASSED or name.startswith(_PASSED_PREFIXES)
