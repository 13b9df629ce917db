"""The shared language: what goes over the socket, and what goes between the loop and its workers.

Nouns, from the outside in:

    frame     24 bytes of prefix, a small msgpack header, a payload                         frame.py
    message   what a frame means: HELLO, INFER, RESULT, …; one class each                   messages.py
    tensor    name, dtype, shape and offset: a row of a header's tensor table               tensor.py
    values    the inputs and outputs that are not tensors, one msgpack segment              values.py
    peer      one end of a connection: bytes in, frames out; knows what is legal when       peer.py
    batch     the descriptors between the loop process and a worker process                 batch.py

The life of a request on the wire:

    1. The client's Peer turns an Infer message into a prefix and a header; the payload follows as it lies in memory.
    2. The server's Peer parses the prefix and the header and hands out a Frame before the payload is there.
    3. Whoever drives the Peer says where the payload shall go (`accept`); what arrived with the header is copied
       there, the rest is received in place.
    4. The Frame comes out a second time, complete.
    5. The reply goes the same way back.

Nothing here does I/O, reads a clock, or needs more than the standard library and msgpack. docs/PROTOCOL.md is the
specification; tests/vectors/ holds its bytes.
"""
