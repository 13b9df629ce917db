"""T23: a client of another version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack

from inferd._version import __version__
from inferd.wire import frame as f
from inferd.wire.messages import Error, Infer, Welcome
from tests.faults.network import connect, hello, rest
from tests.faults.world import Served, World, told
from tests.rawpeer import RawPeer
from tests.vectors.test_vectors import BOOK

RELEASES = Path(__file__).parents[1] / "vectors" / "releases"
OURS = 1


def answer_to_hello(url: str, header: dict[str, Any]) -> Welcome | Error:
    """What a HELLO of these fields is told."""
    packed = msgpack.packb(header)
    with RawPeer(url, greet=False) as peer:
        peer.peer._become("GREETING")
        peer.sock.sendall(f.pack_prefix(f.HELLO, 0, len(packed)) + packed)
        message = peer.next().message
        assert isinstance(message, Welcome | Error)
        if isinstance(message, Error):
            assert rest(peer.sock) == b""
        return message


def test_the_version_is_agreed_on_or_the_refusal_is_clean(world: World) -> None:
    """N−1, N, N+1, and clients that speak several; frames of another version; what a later version adds; and what
    clients of every release send."""
    served = world.serve(told())
    versions(served)
    frames_of_another_version(served)
    later_additions(served)
    for path in sorted(RELEASES.glob("*.json")):
        frames_of_a_release(world, served, path)


def versions(served: Served) -> None:
    """One that both speak, or UNSUPPORTED_VERSION and the end."""
    for lowest, highest in ((OURS, OURS), (OURS - 1, OURS), (OURS, OURS + 1), (0, 1000)):
        message = answer_to_hello(served.url, {"versions": [lowest, highest], "client": "skewed"})
        assert isinstance(message, Welcome) and message.version == OURS, (lowest, highest)
    for lowest, highest in ((OURS - 1, OURS - 1), (OURS + 1, OURS + 1), (OURS + 1, 1000), (1000, 1), (-5, -1)):
        message = answer_to_hello(served.url, {"versions": [lowest, highest]})
        assert isinstance(message, Error)
        assert (message.code, message.reason) == ("UNIMPLEMENTED", "UNSUPPORTED_VERSION"), (lowest, highest)


def frames_of_another_version(served: Served) -> None:
    """They cannot be read, so there is one ERROR of this version, and the end."""
    for version in (0, 2, 255):
        with RawPeer(served.url, greet=False) as peer:
            peer.peer._become("GREETING")
            frame = bytearray(hello())
            frame[3] = version
            peer.sock.sendall(frame)
            message = peer.next().message
            assert isinstance(message, Error) and message.reason == "PROTOCOL"
            assert rest(peer.sock) == b""


def later_additions(served: Served) -> None:
    """Unknown fields, features and flags are ignored, in HELLO as in INFER; an unknown message is answered, and the
    connection goes on."""
    later = {
        "versions": [1, 2],
        "client": "later",
        "features": ["ping", "teleport"],
        "colour": {"of": ["the", "bikeshed"]},
    }
    message = answer_to_hello(served.url, later)
    assert isinstance(message, Welcome) and message.features == ("ping",)
    with RawPeer(served.url) as peer:
        fields = {
            "model": "told",
            "inputs": [["x", "UINT8", [64], 0]],
            "trace": "x",
            "call_id": 5,
            "new": [1, {"a": None}],
        }
        header = msgpack.packb(fields)
        peer.sock.sendall(f.pack_prefix(f.INFER, 1, len(header), 64, flags=0xFE, credits=7) + header + bytes(64))
        assert peer.outcomes(1) == {1: "RESULT"}
        for kind in (16, 19, 77, 255):
            peer.sock.sendall(f.pack_prefix(kind, kind, 3, 100) + b"\x81\xa0\x01" + bytes(100))
        assert peer.outcomes(4) == dict.fromkeys((16, 19, 77, 255), "UNKNOWN_MESSAGE")
        peer.sock.sendall(peer.peer.send(f.INFER, Infer("nothing"), 2))
        assert peer.outcomes(1) == {2: "MODEL_NOT_FOUND"}


def test_the_frames_of_this_release_are_kept() -> None:
    """tests/vectors/releases has one file for each release, and nothing that was in one has gone or changed since."""
    book = json.loads((RELEASES / f"{__version__}.json").read_text(encoding="utf-8"))
    today = {vector["name"]: vector for vector in BOOK["frames"]}
    for vector in book["frames"]:
        assert today[vector["name"]]["hex"] == vector["hex"], vector["name"]


def frames_of_a_release(world: World, served: Served, path: Path) -> None:
    """Every frame that its clients write, at a running daemon: none ends the connection."""
    frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
    sent = [vector for vector in frames if vector["direction"] == "client->server"]
    for vector in sent:
        with connect(served.url) as sock:
            if vector["meaning"]["type"] != "HELLO":
                sock.sendall(hello())
            sock.sendall(bytes.fromhex(vector["hex"]) + f.pack_prefix(f.PING, 4711, 0))
            data = b""
            pong = f.pack_prefix(f.PONG, 4711, 0)[8:]
            while pong not in data:
                piece = sock.recv(65536)
                assert piece, f"{vector['name']} ended the connection"
                data += piece
    world.report(f"frames of {path.stem} taken", len(sent), "frames")
