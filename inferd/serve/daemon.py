"""The daemon from its start to its end: listen, be ready, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Callable

from inferd import log
from inferd.config import MIB, Settings, web_url
from inferd.errors import ConfigError
from inferd.memory import Region
from inferd.serve.engine import Engine
from inferd.serve.executor import Executor
from inferd.serve.gateway import Gateway
from inferd.serve.listener import Listener
from inferd.serve.tokens import GATEWAY
from inferd.wire.address import Address

# What the daemon itself has open: listeners, memory, workers' channels, libraries.
OWN_DESCRIPTORS = 64


async def serve(
    settings: Settings, executor: Executor, on_ready: Callable[[list[Address], Address | None], None]
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain.

    `on_ready` gets the addresses, and the gateway's if there is one, once every worker has loaded its models. Raises
    ConfigError, ModelLoadError and DeviceUnavailable.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        stop.set()
        if signals > 1:
            hurry.set()

    hurry = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    settings.check()
    check_memory(settings)
    allow_descriptors(settings.max_connections + OWN_DESCRIPTORS)
    engine = Engine(settings, executor)
    listener = Listener(engine)
    gateway = None
    if settings.web is not None:
        gateway = Gateway(settings, settings.web)
        gateway.bind()
        if engine.tokens is not None:
            engine.tokens.add(GATEWAY, gateway.token)
    try:
        await _unless(stop, engine.start())
        if not stop.is_set():
            addresses = [await listener.open(address) for address in settings.listen]
            # The collector walking what never goes away is a pause for everybody.
            gc.collect()
            gc.freeze()
            if gateway is not None:
                await listener.open(gateway.back, trusted=True)
                await _unless(stop, gateway.start())
        if not stop.is_set():
            web = gateway.address if gateway is not None else None
            places = [str(address) for address in addresses] + ([web_url(web)] if web is not None else [])
            log.event("ready", models=[model.name for model in settings.models], addresses=places)
            on_ready(addresses, web)
            await stop.wait()
        if gateway is not None:
            gateway.drain()
        listener.close()
        log.event("draining", in_flight=sum(len(session.in_flight) for session in engine.sessions))
        await _unless(hurry, engine.drain(settings.drain_timeout_s))
    finally:
        listener.close()
        await engine.close()
        if gateway is not None:
            await gateway.close()
        log.event("stopped")


def check_memory(settings: Settings) -> None:
    """Raises ConfigError when the system does not give as much memory as the settings name."""
    for setting, mib in (("slab_mib", settings.slab_mib), ("arena_mib", settings.arena_mib)):
        try:
            Region.create("trial", mib * MIB).close()
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "that is no size of memory"
            raise ConfigError(f"{setting} = {mib}: {reason}; set it to less than this machine has") from error


def allow_descriptors(wanted: int) -> None:
    """Raises the limit of open files as far as it goes without asking anybody; a warning if `wanted` are still more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    if soft != resource.RLIM_INFINITY and soft < wanted:
        log.event("few_descriptors", logging.WARNING, limit=soft, max_connections=wanted - OWN_DESCRIPTORS)


async def _unless(event: asyncio.Event, work: object) -> None:
    """Awaits `work` until it is done or `event` is set, whichever is first."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    waiter = asyncio.ensure_future(event.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
    else:
        task.cancel()
