"""HELLO and WELCOME: whether a client may come in, as whom, and what it is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from inferd._version import __version__
from inferd.config import MIB
from inferd.errors import RequestError, make
from inferd.serve.origin import origin
from inferd.serve.tokens import GATEWAY
from inferd.wire.messages import Hello, Welcome
from inferd.wire.values import MAX_VALUES_BYTES, pack_values

if TYPE_CHECKING:
    from inferd.serve.session import Session

SUPPORTED_VERSION = 1
# The feature of a client that answers PING at all times, also while it has nothing in flight. One without it is only
# asked while it has: it may have no thread to answer with.
PING = "ping"


def refuse(session: Session, hello: Hello) -> RequestError | None:
    """Why the client may not come in. None: it may, and is the session's `owner` from here on."""
    lowest, highest = hello.versions
    if not lowest <= SUPPORTED_VERSION <= highest:
        return make("UNSUPPORTED_VERSION", expected=SUPPORTED_VERSION, actual=f"{lowest} to {highest}")
    caller = origin(hello.caller) if session.trusted else ""
    if session.shows_token and session.engine.tokens is not None:
        return _refuse_token(session, hello, caller)
    if caller:
        session.owner = session.engine.holdings.client(caller)
    return None


def _refuse_token(session: Session, hello: Hello, caller: str) -> RequestError | None:
    engine, now = session.engine, session.patience.heard_at
    assert engine.tokens is not None
    # The gateway's own connection asks in nobody's name, and its token is none to guess.
    whose = caller if session.trusted else session.owner.name
    peer = (hello.caller or GATEWAY) if session.trusted else session.link.name
    wait_s = engine.guesses.wait_s(whose, now) if hello.token and whose else 0.0
    if wait_s:
        engine.count("refused_guessing")
        engine.throttle.event("token_refused", now, peer=peer, why="too many wrong ones have come from there")
        return make("GUESSING", retry_after_ms=math.ceil(wait_s * 1000), wait=math.ceil(wait_s * 10) / 10)
    name = engine.tokens.name_of(hello.token)
    if name is None:
        engine.count("refused_token")
        if hello.token and whose:
            engine.guesses.wrong(whose, now)
        problem = "this one is not known" if hello.token else "none was shown"
        engine.throttle.event("token_refused", now, peer=peer, why=problem)
        return make("TOKEN", problem=problem)
    session.owner = engine.holdings.client(f"token:{name}")
    return None


def welcome(session: Session) -> tuple[Welcome, bytes]:
    """What a client is told that has come in, and the packed values behind it: the models."""
    engine = session.engine
    limits = {
        "header_bytes": engine.limits.header_bytes,
        "payload_bytes": engine.limits.payload_bytes,
        "values_bytes": MAX_VALUES_BYTES,
        "result_bytes": engine.settings.arena_mib * MIB,
        "in_flight": session.window.largest,
    }
    features = [PING] if session.answers_ping else []
    models = [model.description for model in engine.door.models.values()]
    return Welcome(f"inferd/{__version__}", limits, SUPPORTED_VERSION, features), pack_values({"models": models})
