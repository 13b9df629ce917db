"""The muscle: a plain blocking loop in a process of its own, one for each device. torch lives here and nowhere else.

Nouns:

    fork server   a small program that has imported torch once and forks workers in milliseconds    forkserver.py
    worker        the process: receives a packet, runs it, sends a packet                           worker.py
    served        a user's model behind one face, whatever it is made of                            loader.py
    runner        one packet in, one packet out: what a worker does, without the process            runner.py
    run           one batch on its way through the model                                            run.py, rows.py
    inputs        rows of the slab seen as one batch, on the device                                 inputs.py
    outputs       a batch's results split by row and written to the arena                           outputs.py
    warm-up       how long batches take, measured before the first request                          warmup.py
    inline        the same runner inside the caller's process: for a debugger, and for tests        inline.py

The life of a batch:

    1. The packet names a model and, for each request, where in the slab its payload lies.
    2. Equally spaced rows become one view of the slab: no copy on a CPU, one transfer to a GPU. Others are joined,
       padded or listed, as the model declares.
    3. preprocess each request · forward the batch · postprocess each request.
    4. The rows go into the arena, and the packet back says where.
    5. The loop process says with a later packet which parts of the arena have been sent.
"""
