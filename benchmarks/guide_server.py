"""The model `ner` behind FastAPI and a WebSocket, as guides to real-time inference over sockets write it.

    PYTHON benchmarks/guide_server.py PORT FOLDER [FOLDER ...] [--threads]

One asyncio process; the model is called in the handler; a message of JSON comes in and one goes out. No batches, ids,
cancellation or back-pressure. uvicorn runs as it does by itself: on uvloop and httptools where they are installed.
`--threads` is what a careful author adds to it: the model is called in Starlette's thread pool, so that others are read
meanwhile, and what is loaded is taken out of the garbage collector's sight. The FOLDERs are where `inferd`, torch and
safetensors are found: they belong to another environment than FastAPI does.
"""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("port", type=int)
parser.add_argument("folders", nargs="+")
parser.add_argument("--threads", action="store_true")
given = parser.parse_args()
sys.path += given.folders

import torch  # noqa: E402
import uvicorn  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
from fastapi import FastAPI, WebSocket, WebSocketDisconnect  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
from fastapi.concurrency import run_in_threadpool  # type: ignore[import-not-found,unused-ignore]  # noqa: E402

from inferd.models.ner import Ner  # noqa: E402

ner = Ner()
ner.load(torch.device("cpu"))
app = FastAPI()


def model(text: str) -> dict[str, Any]:
    """The spans of one text."""
    return ner.postprocess(ner.forward([ner.preprocess(text)])[0])


@app.websocket("/ws")
async def typed(websocket: WebSocket) -> None:
    """One visitor."""
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive_json()
            if given.threads:
                answer = await run_in_threadpool(model, message["text"])
            else:
                answer = model(message["text"])
            await websocket.send_json(answer)
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    model(Ner.example["text"])
    if given.threads:
        gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")
