"""The body: all of asyncio, and no torch. What decides here is synchronous and takes `now` as an argument.

The way of one request, file by file:

    1. listener.py    a connection's bytes are received where its peer says: its buffer, or straight into the slab
    2. session.py     frames become requests; what is wrong with one is answered at once
    3. admission.py   a header becomes a plan, or the error that names what is wrong, before the payload is read
    4. slab.py        the payload gets a row next to the one that came before it
    5. engine.py      the request joins the scheduler's queue; an idle worker starts at the end of the loop's turn
    6. pool.py        which worker is free, and when a dead one's replacement may start
    7. executor.py    one packet of offsets goes to the worker: process.py, or inferd.work.inline
    8. engine.py      the packet that comes back is split by request
    9. session.py     a prefix, a header and a view of the worker's arena leave in one gathered write

    report.py         the timeline in a reply, and the status
    daemon.py         signals, the ready line, the drain
    inherited.py      sockets that systemd hands over
    notify.py         what systemd is told; heartbeat.py: that the daemon is alive, and what it does
"""
