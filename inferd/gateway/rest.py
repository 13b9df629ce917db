"""REST: the Open Inference Protocol's addresses, and what each of them does (docs/GATEWAY.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any

from aiohttp import web
from inferd_client import AsyncClient, Result

from inferd._version import __version__
from inferd.errors import make
from inferd.gateway.body import Bodies
from inferd.gateway.daemon import Callers
from inferd.gateway.health import Health
from inferd.gateway.oip import Asked, Buffer, Signature
from inferd.gateway.oip_answer import answer
from inferd.gateway.oip_request import parse

JSON_BYTES = "Inference-Header-Content-Length"
DEFAULT_TIMEOUT_MS = 30_000.0
# Larger bodies are turned into inputs, and larger results into bodies, in a thread, where tensors are copied beside all
# else. What JSON there is holds up others all the same, and so is bounded (oip_request.py), or written in pieces.
IN_PLACE_BYTES = 64 * 1024


class Rest:
    """The handlers; `routes` says which address is whose."""

    def __init__(self, callers: Callers, health: Health, payload_bytes: int) -> None:
        self._callers = callers
        self._health = health
        self.bodies = Bodies(payload_bytes)

    def routes(self) -> list[web.RouteDef]:
        """The addresses below /v2."""
        model = "/v2/models/{model}"
        get = {
            "/v2": self.server,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "": self.model,
            "/ready": self.model_ready,
            "/config": self.config,
        }
        routes = []
        for path, handler in get.items():
            if path.startswith("/v2"):
                routes.append(web.get(path, handler))
            else:
                routes += [web.get(base + path, handler) for base in (model, model + "/versions/{version}")]
        routes += [web.post(base + "/infer", self.infer) for base in (model, model + "/versions/{version}")]
        return [*routes, web.post("/v2/repository/index", self.index)]

    # ---- what is there

    async def server(self, request: web.Request) -> web.Response:
        """What this is; for those who may ask."""
        async with self.client(request) as client:
            await client.models()
        extensions = ["binary_tensor_data", "model_configuration", "model_repository"]
        return web.json_response({"name": "inferd", "version": __version__, "extensions": extensions})

    async def live(self, request: web.Request) -> web.Response:
        """This process answers."""
        return web.Response(text="live\n")

    async def ready(self, request: web.Request) -> web.Response:
        """The daemon can serve, or why it cannot."""
        problem = await self._health.problem()
        return web.Response(text=f"{problem or 'ready'}\n", status=503 if problem else 200)

    async def model(self, request: web.Request) -> web.Response:
        """A model's metadata."""
        async with self.client(request) as client:
            return web.json_response((await self._signature(request, client)).metadata())

    async def config(self, request: web.Request) -> web.Response:
        """A model's configuration in Triton's form."""
        async with self.client(request) as client:
            return web.json_response((await self._signature(request, client)).config())

    async def model_ready(self, request: web.Request) -> web.Response:
        """The model is served, and the daemon can serve."""
        async with self.client(request) as client:
            await self._signature(request, client)
        return await self.ready(request)

    async def index(self, request: web.Request) -> web.Response:
        """All models."""
        async with self.client(request) as client:
            models = [Signature(description) for description in await client.models()]
        state = "UNAVAILABLE" if await self._health.problem() else "READY"
        rows = [{"name": model.name, "version": model.version, "state": state, "reason": ""} for model in models]
        return web.json_response(rows)

    # ---- inference

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Runs a model. If the caller goes away this task is cancelled, and with it the request."""
        arrived = monotonic()
        async with self.client(request) as client:
            signature = await self._signature(request, client)
            async with self.bodies.read(request) as body:
                asked = await _in_place_or_thread(len(body), parse, body, _json_bytes(request), signature)
                # Anew: a reload may have come while the body did, and ask for the token that was not asked for before.
                async with self.client(request) as client_now:
                    result = await _run(client_now, request, signature.name, asked, arrived)
            # Whoever takes long to read the answer shall not keep the body, too: it no longer counts.
            asked.inputs.clear()
            del body
            nbytes = sum(getattr(value, "nbytes", 0) for value in result.values())
            buffers, json_bytes = await _in_place_or_thread(nbytes, answer, result, result.timing, asked, signature)
        return await _send(request, buffers, json_bytes)

    def client(self, request: web.Request) -> AbstractAsyncContextManager[AsyncClient]:
        """The client of whoever asks, as a context. Raises Unavailable while the daemon drains."""
        if self._health.draining:
            raise make("DRAINING")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self._callers.client(f"ip:{request.remote}", token.strip() if scheme.lower() == "bearer" else "")

    async def _signature(self, request: web.Request, client: AsyncClient) -> Signature:
        name = request.match_info["model"]
        models = await client.models()
        description = next((model for model in models if model.get("name") == name), None)
        if description is None:
            raise make("MODEL_NOT_FOUND", model=name, known=", ".join(sorted(model["name"] for model in models)))
        signature = Signature(description)
        version = request.match_info.get("version", signature.version)
        if version != signature.version:
            raise make("MODEL_NOT_FOUND", model=f"{name}/{version}", known=f"{name}/{signature.version}")
        return signature


async def _run(client: AsyncClient, request: web.Request, model: str, asked: Asked, arrived: float) -> Result:
    timeout_ms = asked.timeout_ms
    if timeout_ms is None:
        timeout_ms = _number(request, "Inferd-Timeout-Ms")
    if timeout_ms is None:
        timeout_ms = DEFAULT_TIMEOUT_MS
    priority = asked.priority or request.headers.get("Inferd-Priority")
    # The body's way here counts: it is the caller who waits.
    left_ms = timeout_ms - (monotonic() - arrived) * 1000
    if left_ms <= 0:
        raise make("TIMEOUT", limit=f"{timeout_ms:g}", stage="still being read")
    call = client.infer_batch if asked.batch else client.infer
    return await call(
        model,
        asked.inputs,
        timeout_ms=left_ms,
        priority=priority,
        supersede=asked.supersede,
        timing=asked.timing,
    )


async def _in_place_or_thread(nbytes: int, work: Callable[..., Any], *args: Any) -> Any:
    if nbytes <= IN_PLACE_BYTES:
        return work(*args)
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: until it is done, its memory is not free for the next body.
        await asyncio.wait([thread])
        raise


def _json_bytes(request: web.Request) -> int | None:
    number = _number(request, JSON_BYTES)
    return None if number is None else int(number)


def _number(request: web.Request, header: str) -> float | None:
    text = request.headers.get(header)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise make("FIELD_VALUE", field=header, problem="must be a whole number")
    return float(text)


async def _send(request: web.Request, buffers: list[Buffer], json_bytes: int | None) -> web.StreamResponse:
    headers = {"Content-Type": "application/json"}
    if json_bytes is not None:
        headers = {"Content-Type": "application/octet-stream", JSON_BYTES: str(json_bytes)}
    nbytes = sum(map(len, buffers))
    if nbytes <= IN_PLACE_BYTES:
        return web.Response(body=b"".join(buffers), headers=headers)
    # From where they lie: joining them would copy the tensors.
    response = web.StreamResponse(headers=headers)
    response.content_length = nbytes
    await response.prepare(request)
    for buffer in buffers:
        await response.write(buffer)
    await response.write_eof()
    return response
