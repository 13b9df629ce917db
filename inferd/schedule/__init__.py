"""The mind: which requests run together, and when. Pure and synchronous; `now` is an argument, tickets are no tensors.

Nouns:

    ticket      what the scheduler knows of a request: its lane, its size, its deadline     ticket.py
    lane        the tickets that may share a batch: one model, one set of shapes            lane.py
    batch       the tickets that run together, and what runs again when it went wrong       batch.py
    latency     what the batches of a lane take, learned                                    latency.py
    window      the credits of a connection                                                 credits.py

The life of a ticket:

    1. submit     it joins its lane
    2. take       a device is free: the lane with the oldest head gives all it has, at once; nobody waits for company
    3. settle     the batch is done; or `split` (the model raised: halves run again until the guilty one is alone);
                  or `lost` (the worker died: each runs once more, alone)
       withdraw   at any time before that: nobody wants it any more, and it is never computed
"""
