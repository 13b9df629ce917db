"""The decoder and the session under atheris, which looks at what code an input reaches and keeps what reaches more.

    pip install atheris && python -m tests.fuzz.guided -max_total_time=600 [other options of libFuzzer]

Where it does not install, tests/fuzz/run.py covers the same ground without looking. It begins with the vectors and the
corpus; a finding is written to the corpus. What it has learned is kept in the folder
INFERD_FUZZ_LEARNED, if that is set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["inferd.wire", "inferd.serve.session", "inferd.serve.admission"]):
    from tests.fuzz import fuzz_wire
    from tests.fuzz.fuzz_session import STRANGERS, Bench

from inferd import log

bench = Bench()


def one_input(data: bytes) -> None:
    """The first byte says what is tried, the rest is the input."""
    if not data:
        return
    what, data = data[0] % 4, data[1:]
    try:
        if what == 0:
            fuzz_wire.check(fuzz_wire.Input("values", data))
        elif what == 1:
            fuzz_wire.check(fuzz_wire.Input("peer", data))
        else:
            bench.check(data, greets=what == 2)
    except Exception as error:
        target = ("values", "peer", "session", "stranger")[what]
        print(fuzz_wire.Input(target, data).save(f"{type(error).__name__}: {error} (guided)"))
        raise


def main() -> None:
    log.logger.setLevel("CRITICAL")
    with tempfile.TemporaryDirectory() as fresh:
        learned = Path(os.environ.get("INFERD_FUZZ_LEARNED", fresh))
        learned.mkdir(exist_ok=True)
        frames = [data for role in fuzz_wire.TO.values() for data in role]
        for kind, inputs in enumerate((fuzz_wire.SEGMENTS, frames, frames, STRANGERS)):
            for number, data in enumerate(inputs):
                (learned / f"seed-{kind}-{number}").write_bytes(bytes([kind]) + data)
        atheris.Setup([*sys.argv, str(learned)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
