"""
`deploy`: pack, sign and upload a flow, and create or update its deployment, in one call.

Steps: check what was given, pack, look at what is there, reuse or sign and upload, write if anything differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from pydantic import ValidationError

from flowgroup import signing
from flowgroup.bundles import pack
from flowgroup.client import api, images, schedules
from flowgroup.client import wish as wishes
from flowgroup.client.author import AuthorSettings
from flowgroup.client.cluster import Cluster
from flowgroup.client.wish import Wish
from flowgroup.edge import store as stores
from flowgroup.errors import Refused
from flowgroup.model import variables
from flowgroup.model.bundle import BundleRef, Statement
from flowgroup.model.ids import slug
from flowgroup.model.pod import PodExtras
from flowgroup.model.spec import to_be_signed

MAX_STATEMENT_LENGTH = 65536


@dataclass(frozen=True, slots=True)
class Deployed:
    """
    What `deploy` did. `changed` is False when the same was there already, and nothing was uploaded or written.

    `version` is the content's id, `address` where the bundle lies, `image` the image as it was stored, `url` the
    deployment's page in Prefect's UI, and `key_id` the public key that verifies the bundle, if it is signed.
    """

    name: str
    deployment_id: UUID
    flow_id: UUID
    version: str
    changed: bool
    address: str
    image: str | None = None
    key_id: str | None = None
    url: str | None = None


def deploy(  # noqa: PLR0913  # an author says it all in one call
    flow: Flow[..., Any],
    *,
    name: str,
    pool: str,
    cluster: Cluster | None = None,
    schedule: Any = None,
    parameters: Mapping[str, Any] | None = None,
    image: str | None = None,
    resolve_image: bool = True,
    store: str | None = None,
    env: Mapping[str, str | None] | None = None,
    start_script: str | None = None,
    tags: Sequence[str] | None = None,
    description: str | None = None,
    include: Sequence[str] = (),
    signing_key: Path | str | None = None,
    concurrency_limit: int | None = None,
    job_variables: Mapping[str, Any] | None = None,
    paused: bool | None = None,
    queue: str | None = None,
) -> Deployed:
    """
    Pack a flow, put it into a store, and create or update the deployment `<flow>/<name>` on a work pool.

    Doing it twice with the same content changes nothing. It works in scripts and in notebooks.

    * cluster: `Cluster(workers=4)`; None: no Dask, the flow runs in its driver alone.
    * schedule: a cron string, seconds, a timedelta, Prefect's schedule objects, or a list; None leaves what is there,
      `[]` removes it. `paused`, `concurrency_limit` and `queue` are also left as they are when None.
    * image: what runs on Kubernetes start in. It is stored with the digest that its registry says now, so that runs
      keep it when the tag moves; where none is told within five seconds the tag stays alone, and a line says why.
      `resolve_image=False` asks nobody.
    * store: where bundles and results lie (`s3://bucket/x`, `gs://…`, `az://…`, `file:///…`); by default
      `FLOWGROUP_STORE`, else `file://~/.flowgroup/store`.
    * include: patterns of more files beside the flow's that shall travel with it, such as `sql/*.sql`.
    * signing_key: the private key file that signs the bundle; by default `FLOWGROUP_SIGNING_KEY`.
    * start_script: run by bash before the cluster's first run. job_variables: whatever else the pool's form has.

    Raises Refused, naming what is wrong and the remedy, before anything is uploaded or written.
    """
    settings = AuthorSettings()
    wishes.require_names(flow, name)
    said = wishes.job_variables(cluster, image, start_script, env, job_variables)
    said = images.pinned(said, settings.docker_config) if resolve_image else said
    sealed = {key: said.get(key) for key in ("image", "start_script", "env")}
    wish = Wish(
        flow=flow,
        name=name,
        pool=pool,
        queue=queue,
        variables=said,
        schedules=schedules.wanted(schedule),
        parameters=wishes.parameters(flow, parameters or {}),
        tags=list(tags or ()),
        description=(description if description is not None else flow.description) or "",
        concurrency_limit=concurrency_limit,
        paused=paused,
        packed=pack(flow, include=include, **sealed),
    )
    place = _Place(
        folder=stores.join(stores.checked(store or settings.store), "flows", slug(flow.name)),
        signing_key=Path(signing_key) if signing_key is not None else settings.signing_key,
    )
    with api.connected() as client:
        api.require_pool(client, pool)
        return _deployed(client, wish, place)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bundle goes, and what signs it."""

    folder: str
    signing_key: Path | None


def _deployed(client: SyncPrefectClient, wish: Wish, place: _Place) -> Deployed:
    found = api.find(client, wish.flow.name, wish.name)
    ref = _reusable(found, wish, place) if found is not None else None
    fresh = ref is None
    ref = ref or _sealed(wish, place)
    fields = _fields(wish, ref, found)
    changed = fresh or found is None or not _is_same(found, fields)
    if fresh:
        stores.put_now(ref.address, wish.packed.data)
    if changed:
        flow_id = client.create_flow_from_name(wish.flow.name)
        deployment_id = client.create_deployment(flow_id=flow_id, name=wish.name, **fields)
    else:
        assert found is not None
        flow_id, deployment_id = found.flow_id, found.id
    return Deployed(
        name=wish.full_name,
        deployment_id=deployment_id,
        flow_id=flow_id,
        version=wish.packed.content_id,
        changed=changed,
        address=ref.address,
        image=wish.variables.get("image"),
        key_id=ref.key_id,
        url=api.ui_address(deployment_id),
    )


def _sealed(wish: Wish, place: _Place) -> BundleRef:
    """
    A reference to the new bundle, signed if there is a key.

    Pickles of one content differ, so the bundle's own hash is in its name: nobody's bundle is ever overwritten.
    """
    packed = wish.packed
    statement = Statement(
        sha256=packed.sha256,
        size=packed.size,
        deployment=wish.full_name,
        version=packed.content_id,
        python=packed.python,
        cloudpickle=packed.cloudpickle,
        prefect=packed.prefect,
        created=datetime.now(UTC),
        **_sealed_settings(wish),
    ).canonical()
    if len(statement) > MAX_STATEMENT_LENGTH:
        raise Refused(
            f"the start script and the environment of {wish.full_name!r} are too long to be signed ({len(statement)} "
            f"characters, {MAX_STATEMENT_LENGTH} are allowed): put them into the image or a file beside the flow"
        )
    signature, key_id = signing.sign(statement, place.signing_key) if place.signing_key else (None, None)
    address = stores.join(place.folder, f"{packed.content_id}-{packed.sha256[:12]}.zip")
    return BundleRef(address=address, statement=statement, signature=signature, key_id=key_id)


def _sealed_settings(wish: Wish) -> dict[str, Any]:
    said = variables.parse(wish.variables)
    return {
        "image": wish.variables.get("image"),
        "start_script": wish.variables.get("start_script"),
        "environment": to_be_signed(said),
        "pod": (said.pod_extras() or PodExtras()).told(),
    }


def _reusable(found: DeploymentResponse, wish: Wish, place: _Place) -> BundleRef | None:
    """The bundle that the deployment has, if it is the same content in the same place, intact and signed as wished."""
    try:
        ref = BundleRef.model_validate(found.job_variables.get("bundle"))
        keys = (signing.public_of(place.signing_key),) if place.signing_key else ()
        version = wish.packed.content_id
        statement = signing.check(ref, keys, deployment=wish.full_name, version=version)
    except (ValidationError, Refused):
        return None
    wanted = _sealed_settings(wish)
    if {name: getattr(statement, name) for name in wanted} != wanted:
        return None
    if not ref.address.startswith(f"{place.folder}/") or stores.head_now(ref.address) != statement.size:
        return None
    return ref


def _fields(wish: Wish, ref: BundleRef, found: DeploymentResponse | None) -> dict[str, Any]:
    """What is sent to Prefect; what was not said stays as it was found."""
    there = found.schedules if found is not None else []
    limit = _limit(found) if found is not None else None
    queue = found.work_queue_name if found is not None and found.work_pool_name == wish.pool else None
    return {
        "version": wish.packed.content_id,
        "entrypoint": wish.packed.entry,
        "work_pool_name": wish.pool,
        "work_queue_name": wish.queue or queue,
        "job_variables": {**wish.variables, "bundle": ref.model_dump(mode="json")},
        "schedules": (schedules.kept(there) if wish.schedules is None else schedules.settled(wish.schedules, there)),
        "parameters": wish.parameters,
        "tags": wish.tags,
        "description": wish.description,
        "concurrency_limit": limit if wish.concurrency_limit is None else wish.concurrency_limit,
        "concurrency_options": found.concurrency_options if found is not None else None,
        "paused": wish.paused,
        "pull_steps": [],
        "parameter_openapi_schema": wish.flow.parameters.model_dump(mode="json"),
        "enforce_parameter_schema": True,
    }


def _is_same(found: DeploymentResponse, fields: Mapping[str, Any]) -> bool:
    # The schema is part of the version; read back, the order of a set's default in it may differ.
    own = {"schedules", "concurrency_limit", "paused", "pull_steps", "parameter_openapi_schema"}
    return (
        all(getattr(found, name) == value for name, value in fields.items() if name not in own)
        and schedules.same(fields["schedules"], schedules.kept(found.schedules))
        and fields["concurrency_limit"] == _limit(found)
        and fields["paused"] in (None, found.paused)
        and not found.pull_steps
    )


def _limit(found: DeploymentResponse) -> int | None:
    return found.global_concurrency_limit.limit if found.global_concurrency_limit is not None else None
