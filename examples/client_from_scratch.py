"""An inferd client from docs/PROTOCOL.md alone: the standard library and msgpack, blocking, one thread.

Good for answers that fit the socket's buffers; with larger ones, read while you write.

    client = Client("inferd://127.0.0.1:7433")
    kind, header, tensors, values = client.wait(client.infer("ner", values={"text": "Ada met Charles."}))
"""

import math
import socket
import struct

import msgpack

PREFIX = struct.Struct("<3sBBBHIIQ")  # magic, version, type, flags, credits, header bytes, payload bytes, request id
HELLO, WELCOME, INFER, RESULT, ERROR, CANCEL, PING, PONG, GOAWAY, CREDIT, STATUS = range(1, 12)
BYTES = {"BOOL": 1, "BF16": 2} | {f"{kind}{8 * n}": n for kind in ("INT", "UINT", "FP") for n in (1, 2, 4, 8)}


def encode(kind, id=0, header=None, payload=b"", flags=0):
    header = msgpack.packb(header) if header else b""
    return PREFIX.pack(b"\xf1nf", 1, kind, flags, 0, len(header), len(payload), id) + header + payload


def encode_infer(id, model, tensors=None, values=None, **fields):  # tensors: {name: (dtype, shape, bytes)}
    table, payload = [], b""
    for name, (dtype, shape, data) in (tensors or {}).items():
        payload += bytes(-len(payload) % 64)  # every tensor begins at a multiple of 64
        table.append([name, dtype, shape, len(payload)])
        payload += data
    if values is not None:
        payload += bytes(-len(payload) % 64) + msgpack.packb(values)
    return encode(INFER, id, {"model": model, "inputs": table or None, **fields}, payload, values is not None)


def read_frame(stream):  # -> (type, id, credits, header, tensors, values)
    def read(n):
        if len(data := stream.read(n)) < n:
            raise ConnectionError("the server closed the connection")
        return data

    magic, version, kind, flags, credits, header_bytes, payload_bytes, id = PREFIX.unpack(read(24))
    if (magic, version) != (b"\xf1nf", 1) or header_bytes > 16_384 or payload_bytes > 1 << 28:
        raise ConnectionError("this is no inferd server, or its frame is too large")
    raw, payload = read(header_bytes), read(payload_bytes)
    header, tensors, end = msgpack.unpackb(raw or b"\x80") if kind <= STATUS else {}, {}, 0
    for name, dtype, shape, offset in header.get("outputs") or header.get("inputs") or []:
        end = offset + math.prod(shape) * BYTES[dtype]
        tensors[name] = dtype, shape, payload[offset:end]
    return kind, id, credits, header, tensors, msgpack.unpackb(payload[end + -end % 64 :]) if flags & 1 else None


class Client:
    def __init__(self, address="inferd://127.0.0.1:7433"):
        scheme, _, place = address.partition("://")
        if scheme == "inferd+unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(place)
        else:
            host, _, port = place.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream, self.answers, self.unanswered = self.socket.makefile("rb"), {}, set()
        self.last_id, self.window, self.models = 0, 1, None
        self.socket.sendall(encode(HELLO, header={"versions": [1, 1], "client": "from-scratch/1"}))
        while self.models is None:
            self.receive()

    def infer(self, model, tensors=None, values=None, **fields):  # fields: rows, deadline_ms, ... -> the request's id
        while len(self.unanswered) >= self.window:
            self.receive()
        self.last_id += 1
        self.unanswered.add(self.last_id)
        self.socket.sendall(encode_infer(self.last_id, model, tensors, values, **fields))
        return self.last_id

    def send(self, kind, id):  # PING, STATUS: with any id. CANCEL: with a request's, whose one answer still comes
        self.socket.sendall(encode(kind, id))

    def wait(self, id):  # -> (type, header, tensors, values) of the answer
        while id not in self.answers:
            self.receive()
        return self.answers.pop(id)

    def receive(self):
        kind, id, credits, header, tensors, values = read_frame(self.stream)
        self.window = credits or self.window  # the whole window; 0 says nothing
        if kind in (HELLO, INFER, CANCEL) or (kind == WELCOME) != (self.models is None and kind != ERROR):
            raise ConnectionError(f"a server sends no message of type {kind} now")
        if kind == ERROR and id == 0:
            raise ConnectionError(header.get("message"))
        if kind == WELCOME:
            self.models = {model["name"]: model for model in values["models"]}
        elif kind == PING:
            self.socket.sendall(encode(PONG, id))
        elif kind in (PONG, STATUS) or (kind in (RESULT, ERROR) and id in self.unanswered):
            self.unanswered.discard(id)
            self.answers[id] = kind, header, tensors, values
