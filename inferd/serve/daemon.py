"""The daemon from its start to its end: listen, be ready, drain."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

from inferd import failpoints, log
from inferd.config import MIB, Settings, web_url
from inferd.errors import ConfigError
from inferd.memory import Region
from inferd.serve.engine import Engine
from inferd.serve.executor import Executor
from inferd.serve.gateway import Gateway
from inferd.serve.heartbeat import Heartbeat
from inferd.serve.inherited import InheritedSockets
from inferd.serve.listener import Listener
from inferd.serve.notify import Notifier
from inferd.serve.reload import Reloader
from inferd.serve.tokens import GATEWAY
from inferd.wire.address import Address

# What the daemon itself has open: listeners, memory, workers' channels, libraries.
OWN_DESCRIPTORS = 64


async def serve(
    settings: Settings,
    executor: Executor,
    on_ready: Callable[[list[Address], Address | None], None],
    reread: Callable[[], Settings],
    notifier: Notifier,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain.

    SIGHUP puts in force what `reread` returns. `on_ready` gets the addresses, and the gateway's if there is one, once
    every worker has loaded its models. Raises an InferdError when it cannot be served; to tell
    `notifier` of that is the caller's.
    """
    # Read and removed before anything is started that would take them for its own.
    inherited = InheritedSockets.from_environment(os.environ)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        stop.set()
        if signals > 1:
            hurry.set()
            engine.abandon()
            if gateway is not None:
                gateway.abandon()

    hurry = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    # SIGABRT, from systemd's watchdog or from the C library, says where every thread is before it kills.
    faulthandler.enable(sys.__stderr__ or 2)
    if failpoints.ON:
        log.event("failpoints_on", logging.WARNING, names=sorted(failpoints.ON), effect="this daemon is made to fail")
    inherited.check(settings)
    check_memory(settings)
    allow_descriptors(settings.max_connections + OWN_DESCRIPTORS)
    engine = Engine(settings, executor)
    listener = Listener(engine)
    # Before models load, which can take minutes: an address that cannot be had is found at once.
    places = [listener.reserve(address, sock) for address, sock in inherited.places(settings.listen)]
    gateway = None
    if inherited.web is not None:
        gateway = Gateway(settings, inherited.web.address, inherited.web.sock)
    elif settings.web is not None:
        gateway = Gateway(settings, settings.web)
    if gateway is not None:
        gateway.bind()
        if engine.tokens is not None:
            engine.tokens.add(GATEWAY, gateway.token)

    def reread_and_checked() -> Settings:
        settings = reread()
        inherited.check(settings)
        return settings

    reloader = Reloader(engine, reread_and_checked, gateway, notifier)
    in_terminal = _has_terminal()

    def on_hangup() -> None:
        if in_terminal and not _has_terminal():
            on_signal()  # the terminal has been closed, and nobody means a reload
        else:
            reloader.hung_up()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    heartbeat = Heartbeat(engine, notifier, engine.clock)
    ends_at = engine.clock()
    try:
        heartbeat.start()
        await _unless(stop, engine.start())
        if not stop.is_set():
            addresses = [await listener.open(place) for place in places]
            # The collector walking what never goes away is a pause for everybody.
            gc.collect()
            gc.freeze()
            if gateway is not None:
                await listener.open(gateway.back, trusted=True)
                await _unless(stop, gateway.start())
        if not stop.is_set():
            web = gateway.address if gateway is not None else None
            urls = [str(address) for address in addresses] + ([web_url(web)] if web is not None else [])
            log.event("ready", models=[model.name for model in settings.models], addresses=urls)
            heartbeat.ready()
            on_ready(addresses, web)
            reloader.start()
            await stop.wait()
        reloader.close()
        if gateway is not None:
            gateway.drain()
        listener.close()
        heartbeat.draining()
        log.event("draining", in_flight=sum(len(session.in_flight) for session in engine.sessions))
        ends_at = engine.clock() + engine.settings.drain_timeout_s
        await _unless(hurry, engine.drain(engine.settings.drain_timeout_s))
    finally:
        reloader.close()
        listener.close()
        await engine.close()
        if gateway is not None:
            # For the engine an answer is over when the gateway has it; its caller may still be reading.
            await gateway.close(ends_at - engine.clock())
        heartbeat.stop()
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


def _has_terminal() -> bool:
    """Whether a terminal controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


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
