"""The mind: which requests run together, and when. Pure and synchronous; `now` is an argument, tickets are no tensors.

Nouns:

    ticket      what the scheduler knows of a request: its lane, its size, its deadline     ticket.py
    lane        the tickets that may share a batch: one model, one set of shapes            lane.py
    queue       all lanes: who waits, and until when                                        queue.py
    share       how far each client is ahead of his                                         shares.py
    batch       the tickets that run together, and what runs again when it went wrong       batch.py
    device      how many there are, and what runs on them                                   devices.py
    latency     what the batches of a lane take, learned                                    latency.py, known.py
    admission   whether an answer is possible in time                                       admission.py
    window      the credits of a connection                                                 credits.py

The life of a ticket:

    1. admit      only its header is here: can the answer be there in time?
    2. submit     it joins its lane
    3. take       a device is free: the lane whose head is due first gives a batch, at once; nobody waits for company
    4. settle     the batch is done; or `split` (the model raised: halves run again until the guilty one is alone);
                  or `lost` (the worker died: each runs once more, alone)
       withdraw   at any time before that: nobody wants it any more, and it is never computed
"""
