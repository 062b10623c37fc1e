"""What the desk gives to a child: the order, and what only the desk knows."""

from pydantic import BaseModel, ConfigDict, Field

from flowgroup.model.orders import Order


class Brief(BaseModel):
    model_config = ConfigDict(frozen=True)

    order: Order
    env: dict[str, str] = Field(repr=False, description="set in the child before anything of the run is read")
    lean: bool = Field(default=True, description="change Prefect's engine where that saves time (`lean.py`)")
    scheduler: str | None = Field(default=None, description="the Dask scheduler's address, if the group has workers")


def shared_environment(desk: str, storage: str) -> dict[str, str]:
    """What all runs of a driver have. `desk` is the API's address on loopback, `storage` Prefect's local result folder."""
    return {
        "PREFECT_LOCAL_STORAGE_PATH": storage,
        "PREFECT_API_URL": desk,
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        # Tasks of a stock DaskTaskRunner take it along: what they log must be out before the run's attempt is closed.
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.1",
    }


def environment(order: Order, *, desk: str, folder: str, scheduler: str | None, storage: str) -> dict[str, str]:
    """
    The environment that one run adds to the driver's own. `folder` is the run's working folder.

    The run's own variables come last but for those that say where the API is.
    """
    dask = {"FLOWGROUP_DASK_SCHEDULER": scheduler} if scheduler else {}
    return {
        "TMPDIR": f"{folder}/tmp",  # noqa: S108  the run's own
        **shared_environment(desk, storage),
        **order.env,
        **dask,
        "FLOWGROUP_ATTEMPT": order.attempt,
        "PREFECT_HOME": f"{folder}/prefect",
        "PREFECT_API_URL": desk,
        "PREFECT_API_KEY": order.token,
        "PREFECT_API_AUTH_STRING": order.token,  # what Prefect shows on websockets of a server that is not Cloud
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT__FLOW_RUN_ID": order.run_id,
        "PREFECT__FLOW_NAME": order.flow_name,
    }
