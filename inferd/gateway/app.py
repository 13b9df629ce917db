"""The gateway as a whole: its addresses, what holds for each of them, and its end."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from inferd import log
from inferd.errors import InferdError, Unavailable
from inferd.gateway.access import Access
from inferd.gateway.answers import failure, problem
from inferd.gateway.connections import KEEP_ALIVE_S, MARKS, Connections, Protocol
from inferd.gateway.daemon import Callers
from inferd.gateway.health import Health
from inferd.gateway.metrics import HttpCounts, exposition
from inferd.gateway.relay import Relay
from inferd.gateway.rest import Rest
from inferd.gateway.settings import GatewaySettings
from inferd.wire.address import Address

PAGE = Path(__file__).with_name("page")
# Nothing but the page's own files, and nobody may frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}
# As many as the daemon has asked for: creating a server asks anew.
BACKLOG = 1024
# A longer one cannot be asked for.
MAX_FILE_NAME = 255
SWEEP_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Everything between the listening socket and the daemon."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._access = Access(settings.origins, settings.loopback_only)
        self._held = settings.held
        self._callers = Callers(settings.daemon, settings.token, settings.asks_for_tokens)
        self._health = Health(self._callers.own)
        self._rest = Rest(self._callers, self._health, settings.payload_bytes)
        self._counts = HttpCounts()
        self._relay = Relay(Address.parse(settings.daemon), self._health, self._counts)
        self._throttle = log.Throttle()
        app = web.Application(middlewares=[self._answered])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/page/{name:[A-Za-z0-9][A-Za-z0-9._-]*}", self._page),
                web.get("/ws", self._relay.handle),
                web.get("/livez", self._rest.live),
                web.get("/readyz", self._rest.ready),
                web.get("/metrics", self._metrics),
                *self._rest.routes(),
            ]
        )
        # A caller that hangs up cancels its request.
        self._runner = web.AppRunner(app, handler_cancellation=True)
        app.on_response_prepare.append(self._marked)
        self._limit = settings.max_connections
        self._asks_for_tokens = settings.asks_for_tokens

    async def open(self, listening: socket.socket) -> None:
        """Answers at this socket from now on."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": KEEP_ALIVE_S,
            "logger": _Log(self._throttle),
        }
        self._connections = Connections(lambda: Protocol(server, loop=loop, **options), self._limit)
        self._server = await loop.create_server(self._connections.accept, sock=listening, backlog=BACKLOG)
        self._sweeping = asyncio.create_task(self._sweep())
        self._sweeping.add_done_callback(_told)

    def reloaded(self, settings: GatewaySettings) -> None:
        """These hold for every request that comes from now on; WebSockets that are open stay."""
        self._access = Access(settings.origins, settings.loopback_only)
        self._callers.reloaded(settings.asks_for_tokens)
        self._rest.bodies.limit = settings.payload_bytes
        self._connections.limit = settings.max_connections
        self._asks_for_tokens = settings.asks_for_tokens

    def drain(self) -> None:
        """The daemon is going away: this stays alive, and says that it is not ready. Uploads are told so at once."""
        self._health.draining = True
        self._rest.bodies.drain()
        if self._held:
            self._server.close()  # who comes now waits for the next gateway, and is not turned away by this one

    async def close(self) -> None:
        """Ends when the last answers are sent, however long that takes: those who read nothing are cut as ever, and the
        daemon kills one that takes too long."""
        self.drain()
        self._server.close()
        await self._relay.close()
        await self._connections.ended()
        self._sweeping.cancel()
        await self._runner.cleanup()
        await self._callers.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = monotonic()
            self._connections.sweep(now)
            await self._callers.sweep(now)

    # ---- what holds for all

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keeps count of who is being answered."""
        self._connections.asked(request)
        try:
            response = await self._answer(request, handler)
            if self._health.draining:
                response.force_close()  # also of one that began before, and said that the connection stays
            return response
        finally:
            self._connections.answered(request, last=self._health.draining)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks who asks, turns errors into answers, and counts these."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        try:
            why_not = self._access.problem(request.headers.get("Host", ""), request.headers.get("Origin"))
            response = problem(403, why_not) if why_not else await handler(request)
        except InferdError as error:
            response = failure(error)
        except web.HTTPException as error:
            response = problem(error.status, _sentence(error, request), _allow(error))
        except RequestPayloadError:
            response = problem(400, "the body cannot be read: its encoding is broken, or not known here")
        except Exception:
            detail = traceback.format_exc()
            self._throttle.event("gateway_failed", monotonic(), logging.ERROR, route, route=route, detail=detail)
            response = problem(500, "the gateway failed on this request; the server's log has it")
        self._counts.requests[route, str(response.status)] += 1
        return response

    async def _marked(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(MARKS)
        if self._health.draining and response.status != 101:
            # Whoever keeps connections for later would ask here again.
            response.headers["Connection"] = "close"

    # ---- what is no protocol's

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return _file("index.html")

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _file(request.match_info["name"])

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        status = None
        try:
            async with self._rest.client(request) as client:
                status = await client.status()
        except Unavailable:
            # Then that is what there is to say, to those whose token need not be checked.
            if self._asks_for_tokens:
                raise
        text, content_type = exposition(status, self._counts, request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})


class _Log:
    """Where aiohttp logs: a line a second at most, and not what was received, in which there can be a token."""

    def __init__(self, throttle: log.Throttle) -> None:
        self._throttle = throttle

    def debug(self, *args: object, **more: object) -> None:
        """What is no HTTP at all."""

    def exception(self, *args: object, exc_info: BaseException | None = None, **more: object) -> None:
        """A request that cannot be read, or a defect."""
        kind = type(exc_info).__name__
        if isinstance(exc_info, HttpProcessingError | RequestPayloadError):
            self._throttle.event("http_error", monotonic(), key=kind, kind=kind)
        else:
            detail = "".join(traceback.format_exception(exc_info))
            self._throttle.event("gateway_failed", monotonic(), logging.ERROR, kind, detail=detail)


def _told(task: asyncio.Task[None]) -> None:
    """No task ends with an exception that nobody hears of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.logger.error("task_failed", exc_info=error)


def _file(name: str) -> web.StreamResponse:
    path = PAGE / name
    if len(name) > MAX_FILE_NAME or not path.is_file():
        raise web.HTTPNotFound(text=f"there is no {name!r} here")
    return web.FileResponse(path, headers=PAGE_HEADERS)


def _sentence(error: web.HTTPException, request: web.Request) -> str:
    """What happened and what to do; aiohttp's own sentences say neither."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not what this address takes; it takes {', '.join(sorted(error.allowed_methods))}"
    if isinstance(error, web.HTTPNotFound) and request.match_info.route.resource is None:
        return "there is no such address; GET /v2 says what this server is, and docs/GATEWAY.md which addresses it has"
    return error.text or error.reason


def _allow(error: web.HTTPException) -> dict[str, str] | None:
    allow = error.headers.get("Allow")
    return {"Allow": allow} if allow else None
