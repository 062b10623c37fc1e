"""Prefect's API as an author reaches it: Prefect's own client, its failures told as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.urls import url_for
from pydantic import ValidationError

from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.variables import POOL_TYPE

_TROUBLE, _TOO_MANY = 500, 429


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """
    A client of the API that this environment or Prefect's profile names.

    Raises Refused when there is none, or when what answers there does not let us in or is not Prefect's API; Transient
    when it is in trouble.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise Refused("PREFECT_API_URL is not set: set it to the address of your Prefect API (it ends in /api)")
    with _told(str(url)), get_client(sync_client=True) as client:
        yield client


def require_pool(client: SyncPrefectClient, name: str) -> None:
    """Raises Refused unless there is a work pool of that name and of our type."""
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound as exc:
        _require_route(client, exc.http_exc)
        raise Refused(
            f"there is no work pool {name!r} at {client.api_url}: `flowgroup start --pool {name}` makes it"
        ) from exc
    if pool.type != POOL_TYPE:
        raise Refused(
            f"the work pool {name!r} is of type {pool.type!r}, not {POOL_TYPE!r}: choose another name, and "
            "`flowgroup start --pool NAME` makes such a pool"
        )


def find(client: SyncPrefectClient, flow_name: str, name: str) -> DeploymentResponse | None:
    """The deployment of that name, if there is one."""
    found = client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
        limit=1,
    )
    return found[0] if found else None


def ui_address(deployment_id: UUID) -> str | None:
    """The deployment's page in Prefect's UI, if it is known where that is."""
    return url_for("deployment", obj_id=deployment_id)


def detail(response: httpx.Response) -> str:
    """What the API says is wrong."""
    try:
        said: Any = response.json()
    except ValueError:
        return response.text[:300]
    return str(said.get("detail", said) if isinstance(said, dict) else said)[:1000]


def _require_route(client: SyncPrefectClient, exc: Exception) -> None:
    """A 404 of Prefect's API says what is missing; that of another path or server does not."""
    if not isinstance(exc, httpx.HTTPStatusError):
        return
    is_json = exc.response.headers.get("content-type", "").startswith("application/json")
    if not is_json or detail(exc.response) == "Not Found":
        raise _status(str(client.api_url).rstrip("/"), exc.response) from exc


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as exc:
        raise _status(url, exc.response) from exc
    except httpx.TransportError as exc:
        raise Refused(
            f"Prefect's API at {url} (PREFECT_API_URL) cannot be reached: {exc or type(exc).__name__}; is it running, "
            "and is the address right?"
        ) from exc
    except (httpx.InvalidURL, ValueError) as exc:
        raise _unreadable(url, exc) from exc


def _status(url: str, response: httpx.Response) -> Permanent | Transient:
    status = response.status_code
    if status in (401, 403):
        return Refused(
            f"Prefect's API at {url} (PREFECT_API_URL) does not let you in ({status}): check PREFECT_API_KEY or "
            "PREFECT_API_AUTH_STRING"
        )
    if status in (409, 422):
        return Refused(f"Prefect's API at {url} refuses the deployment: {detail(response)}")
    if status >= _TROUBLE or status == _TOO_MANY:
        return Transient(f"Prefect's API at {url} is in trouble ({status}): {detail(response)}; try again later")
    return Refused(
        f"{url} (PREFECT_API_URL) answers {status} to {response.request.url.path}: is it Prefect's API? It usually "
        "ends in /api"
    )


def _unreadable(url: str, exc: ValueError | httpx.InvalidURL) -> Refused:
    what = "what is no JSON" if not isinstance(exc, ValidationError) else "something unexpected"
    return Refused(
        f"{url} (PREFECT_API_URL) answers {what}: it is not the address of Prefect's API, which usually ends in /api "
        f"({type(exc).__name__})"
    )
