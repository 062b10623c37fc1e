"""`flowgroup check`: whether a work pool runs flows."""

import argparse
import asyncio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", required=True, help="the work pool to run the hello flow on")
    parser.add_argument("--workers", type=int, default=0, help="Dask workers of its cluster (default: no Dask)")
    parser.add_argument("--image", help="the image to run it in (default: the pool's)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="when to give up (default 300)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 only if the run completed. Raises Refused and Permanent."""
    from flowgroup.dev.hello import completes
    from flowgroup.settings import Settings

    variables = {"workers": args.workers, **({"image": args.image} if args.image else {})}
    completed = asyncio.run(completes(Settings.read().prefect, args.pool, variables, args.timeout))
    return 0 if completed else 1
