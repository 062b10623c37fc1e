"""`/livez` and `/readyz`, without any key. Neither asks the API: the relay has an answer also while that is away."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowgroup.health import Health


def probes(health: Health) -> list[Route]:
    """
    Ready is a relay that takes calls, also before the daemon has told it which attempts are open: the daemon could not
    reach one that is not ready.
    """

    async def answer(request: Request) -> Response:
        status, kind, body = health.answer(request.url.path)
        return Response(body, status, media_type=kind)

    return [Route(path, answer, methods=["GET"]) for path in ("/livez", "/readyz")]
