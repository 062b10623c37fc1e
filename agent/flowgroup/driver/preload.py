"""What the zygote imports and makes once, so that no child has to: what Prefect imports only when a run first needs it."""

import importlib
import re

from prefect import flow
from prefect.logging.highlighters import PrefectConsoleHighlighter
from pydantic import BaseModel
from pydantic._internal._mock_val_ser import MockValSer

from flowgroup.driver import lean, tasks, trust  # noqa: F401  (tasks: distributed and prefect-dask with it)

_LATE = (
    "pydantic.v1",
    "rich._emoji_codes",
    "rich.emoji",
    "rich.traceback",
    "prefect._internal.analytics",
    "prefect._internal.observers",
    "prefect.client.schemas.actions",
    "prefect.client.schemas.filters",
    "prefect.deployments.steps.core",
    "prefect.deployments.steps.pull",
    "prefect.events.related",
    "prefect.filesystems",
    "prefect.utilities.timeout",
    "psutil",
)
_MODELS = frozenset(
    {
        "prefect.client.schemas.actions",
        "prefect.client.schemas.objects",
        "prefect.client.schemas.responses",
        "prefect.context",
        "prefect.events.schemas.events",
        "prefect.results",
        "prefect.types",
    }
)
"""Where the models are that every run uses. There are twice as many others."""


def _finish_models(model: type[BaseModel]) -> None:
    """Pydantic finishes some of Prefect's models when they are first used: that is in every child anew."""
    for below in model.__subclasses__():
        if below.__module__ in _MODELS and not _is_finished(below):
            below.model_rebuild(raise_errors=False)
        _finish_models(below)


def _is_finished(model: type[BaseModel]) -> bool:
    return model.__pydantic_complete__ and not isinstance(model.__pydantic_validator__, MockValSer)


def preload() -> None:
    """In the zygote, before it serves. What is not there in another version of Prefect is left out."""
    for name in _LATE:
        try:
            importlib.import_module(name)
        except ImportError:
            continue

    @flow
    def rehearsal(number: int = 0) -> int:
        return number

    rehearsal.validate_parameters({"number": 1})
    _finish_models(BaseModel)
    for pattern in PrefectConsoleHighlighter.highlights:
        re.compile(pattern)
    lean.fitting()
    lean.make_tls_context()
    trust.read()
