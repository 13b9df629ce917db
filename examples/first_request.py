"""The README's first request, from Python: `inferd serve` in one terminal, this in another."""

from inferd import Client

with Client() as client:
    answer = client.infer("ner", {"text": "Grace Hopper joined the Navy in 1943."}, timeout_ms=500)
    for span in answer["spans"]:
        print(span["entity"], span["text"])
