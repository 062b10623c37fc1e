"""The zygote's process: import everything once, then fork on request. Without what only the desk needs: runs wait for it."""

import signal
import socket

from flowgroup.driver import oskit, versions, warming
from flowgroup.driver.sampler import sampled
from flowgroup.driver.zygote import serve
from flowgroup.settings import profile_folder


def main(fd: int) -> None:
    """Serve the desk at the other end of this socket, until it is gone."""
    oskit.die_with_parent(signal.SIGKILL)
    with warming.one_thread():  # Dask imports numpy where it is installed
        from flowgroup.driver import child, engine, preload, settle
    engine.check()
    preload.preload()
    run = versions.or_asked(sampled(child.run, profile_folder()))
    serve(socket.socket(fileno=fd), warming.settled(run), warming.preparing(run, settle.take_on))
