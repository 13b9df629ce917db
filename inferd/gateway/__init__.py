"""The gateway: HTTP and WebSocket in front of the daemon, in a process of its own (docs/GATEWAY.md).

    browser ──WebSocket──▶ relay ═══════ the wire, untouched ═══════▶ daemon     one connection each
    curl    ──HTTP──▶ rest ──▶ oip ──▶ daemon.Callers ──the wire──▶ daemon     one connection for each caller
    scraper ──HTTP──▶ metrics, health ───────STATUS──────────────▶ daemon

The life of a REST request:

    1. connections.py   accepts the connection, and cuts it if it makes no progress
    2. access.py        checks Host and Origin
    3. body.py          reads the body, within the limits
    4. oip.py           Open Inference Protocol → the inputs of a call
    5. daemon.py        the caller's connection to the daemon; its token is checked there
    6. oip.py           outputs → Open Inference Protocol, or errors.py's error → a status and a sentence

A WebSocket skips 3 to 6: relay.py reads its HELLO, writes into it for whom it is, and then moves bytes both ways. What
the daemon offers (deadlines, priorities, credits, cancelling, latest wins) is therefore there without the gateway
knowing of it.
"""
