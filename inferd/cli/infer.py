"""`inferd infer`: one request, or one for each line of standard input, and its answer for a reader or a program."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from inferd import strict_json
from inferd.cli.common import client_options, daemon, daemon_options, failures_told, printable, table, type_text
from inferd.cli.inputs import Inputs
from inferd.errors import InferdError, RequestError

if TYPE_CHECKING:
    import asyncio

    from inferd_client.call import Result

# As in inferd.wire.messages, which the command line does not load to say --help.
PRIORITIES, STANDARD = ("interactive", "standard", "batch"), "standard"

# Lines in flight at a time: several of the largest usual batches, and under the daemon's 1,024 of a connection.
LINES_IN_FLIGHT = 256
READ_BYTES = 64 * 1024
PREVIEW_ELEMENTS = 8


@click.command(short_help="Ask a model once, or once for each line of standard input.")
@click.argument("model")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@daemon_options
@click.option("--lines", is_flag=True, help="One request for each line of standard input; answers in their order.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each answer, tensors as nested lists.")
@click.option("--timing", is_flag=True, help="Also where the time went; with --json as {outputs, timing}.")
@click.option(
    "--priority", type=click.Choice(PRIORITIES), default=STANDARD, show_default=True, help="How urgent it is."
)
@click.option(
    "--supersede", metavar="KEY", help="With --lines: a line that still waits is given up when the next one comes."
)
@click.option(
    "--output", type=click.Path(dir_okay=False), metavar="FILE.npy", help="Save the answer's only tensor there."
)
def infer(
    model: str,
    inputs: tuple[str, ...],
    url: str,
    timeout_ms: float | None,
    lines: bool,
    as_json: bool,
    timing: bool,
    priority: str,
    supersede: str | None,
    output: str | None,
) -> None:
    """Ask MODEL and print what it answers.

    An INPUT is a value for the model's only input, or name=VALUE. A VALUE is JSON if it parses, otherwise text; for
    an input that takes text it always is text. @file.npy, @file.json and @file.txt read a file, - reads standard input.
    A JSON list of numbers is a tensor of the dtype that the model declares; if it declares none, FP32, or what
    name:DTYPE=VALUE says.

    \b
    inferd infer ner "Ada Lovelace met Charles Babbage in London in 1833."
    inferd infer net x=[0.5,1,2] --json
    inferd infer net ids:INT64=[101,7592,102] --timing
    inferd infer net image=@cat.npy --output scores.npy
    inferd infer ner --lines --json < texts.txt
    """
    if lines and output:
        raise click.UsageError("--output saves one answer; with --lines use --json")
    if lines and sys.stdin is None:
        raise _no_stdin("it is closed")  # and its number may be a connection's soon
    with daemon(url, timeout_ms) as client:
        read = Inputs(client.models(), model, _read_stdin)
        request, place = read.parse(inputs, lines)
        options: dict[str, Any] = {"priority": priority, "supersede": supersede, "timing": timing}
        if not lines:
            outputs = client.infer(model, request, **options)
    if not lines:
        _show(outputs, as_json, output)
        return
    import asyncio

    with failures_told():
        failed = asyncio.run(_ask_lines(url, timeout_ms, read, request, place, as_json, options))
    if failed:
        sys.exit(1)


def _read_stdin() -> str:
    if sys.stdin is None:
        raise _no_stdin("it is closed")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InferdError("standard input is not text in UTF-8") from error
    except OSError as error:
        raise _no_stdin(error.strerror or str(error)) from error


def _no_stdin(why: str) -> InferdError:
    return InferdError(f"standard input cannot be read: {why}; give it a file or a pipe")


# ---- many lines


async def _ask_lines(
    url: str,
    timeout_ms: float | None,
    read: Inputs,
    request: dict[str, Any],
    place: str,
    as_json: bool,
    options: dict[str, Any],
) -> int:
    """Answers every line of standard input in order; returns how many failed."""
    import asyncio

    from inferd_client import AsyncClient

    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[str, asyncio.Task[Result]] | OSError | None] = asyncio.Queue(LINES_IN_FLIGHT)
    failed = number = 0
    async with AsyncClient(url, **client_options(timeout_ms)) as client:

        async def ask(line: bytes) -> Result:
            try:
                value = read.line(place, line.decode())
            except UnicodeDecodeError as error:
                raise InferdError("it is not text in UTF-8") from error
            except click.UsageError as error:
                raise InferdError(error.message) from error
            return await client.infer(read.model, {**request, place: value}, **options)

        async def take(lines: list[bytes] | OSError | None) -> None:
            if not isinstance(lines, list):
                await waiting.put(lines)
                return
            for line in lines:
                await waiting.put((line.decode(errors="replace"), loop.create_task(ask(line))))

        # A thread, because a terminal or a slow pipe would hold up the answers; a daemon, because it may wait in
        # read() for ever when everything else is over.
        threading.Thread(target=_read_lines, args=(take, loop), daemon=True).start()
        while (entry := await waiting.get()) is not None:
            if isinstance(entry, OSError):
                raise _no_stdin(entry.strerror or str(entry)) from entry
            line, task = entry
            number += 1
            try:
                outputs = await task
            except InferdError as error:
                failed += 1
                _show_failure(number, error, as_json)
            else:
                if not as_json:
                    click.secho(f"{'' if number == 1 else chr(10)}> {printable(line)}", bold=True)
                _show(outputs, as_json, None)
    return failed


def _read_lines(take: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Hands the lines of standard input to `take` in the loop's thread, and None when they end, or the error that ended
    them; waits when it waits."""
    import asyncio
    from concurrent.futures import CancelledError
    from contextlib import suppress

    def hand(lines: list[bytes] | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(take(lines), loop).result()

    rest = b""
    with suppress(RuntimeError, CancelledError):  # the loop has ended before the lines did
        try:
            while chunk := os.read(0, READ_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    hand(lines)
        except OSError as error:
            hand(error)
            return
        if rest:
            hand([rest])
        hand(None)


def _show_failure(number: int, error: InferdError, as_json: bool) -> None:
    if not as_json:
        click.echo(printable(f"inferd: line {number}: {error}"), err=True)
        return
    told = {"message": str(error)}
    if isinstance(error, RequestError):
        told = {"code": error.code, "reason": error.reason, "message": error.message}
    click.echo(json.dumps({"error": told}))


# ---- answers


def _show(outputs: Result, as_json: bool, output: str | None) -> None:
    timing = outputs.timing
    if output:
        _save(outputs, output)
    elif as_json:
        click.echo(json_text(outputs if timing is None else {"outputs": outputs, "timing": timing}))
        return
    else:
        for line in human_lines(outputs):
            click.echo(line)
    if timing is not None:
        click.echo(timing_line(timing))


def timing_line(timing: dict[str, Any]) -> str:
    """A timeline for a reader: `queued 0.1 ms, compute 2.0 ms, total 2.3 ms, …`."""
    words = []
    for name, value in timing.items():
        what, _, unit = name.rpartition("_")
        if unit == "ms":
            words.append(f"{what} {value:.3g} ms" if isinstance(value, float | int) else f"{what} {value}")
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return printable(f"timing  {', '.join(words)}")


def _is_tensor(value: Any) -> bool:
    # Without importing numpy: an answer of text alone does not need it.
    return hasattr(value, "tolist") and hasattr(value, "shape")


def json_text(outputs: dict[str, Any]) -> str:
    """One JSON object: tensors as nested lists, bytes in base64, null for NaN and infinity."""
    return strict_json.dumps(outputs, _plain)


def _plain(value: Any) -> Any:
    return value.tolist() if _is_tensor(value) else base64.b64encode(value).decode()


def human_lines(outputs: dict[str, Any]) -> list[str]:
    """An answer for a reader."""
    lines: list[str] = []
    for name, value in outputs.items():
        if _is_tensor(value):
            lines.append(f"{printable(name)}  {_tensor_type(value)}  {_preview(value)}")
        elif _are_spans(value):
            rows = [
                [str(s["entity"]), str(s["text"]), f"{s['start']}-{s['end']}", f"{s.get('score', 0):.2f}"]
                for s in value
            ]
            lines += table(("entity", "text", "start-end", "score"), rows)
        else:
            lines.append(f"{printable(name)}  {printable(_shown(value))}")
    return lines or ["(the answer is empty)"]


def _shown(value: Any) -> str:
    # For eyes: NaN is NaN, as it is in a tensor's preview.
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _are_spans(value: Any) -> bool:
    needed = {"entity", "text", "start", "end"}
    return isinstance(value, list) and bool(value) and all(isinstance(s, dict) and s.keys() >= needed for s in value)


def _tensor_type(array: Any) -> str:
    from inferd_client.codec import WIRE_DTYPES

    return type_text(WIRE_DTYPES.get(array.dtype.str, "BF16"), array.shape)


def _preview(array: Any) -> str:
    elements = array.reshape(-1)[:PREVIEW_ELEMENTS].tolist()
    more = ", …" if array.size > PREVIEW_ELEMENTS else ""
    return f"[{', '.join(f'{e:.5g}' if isinstance(e, float) else str(e) for e in elements)}{more}]"


def _save(outputs: dict[str, Any], path: str) -> None:
    tensors = {name: value for name, value in outputs.items() if _is_tensor(value)}
    if len(tensors) != 1:
        have = ", ".join(tensors) or "none"
        raise InferdError(f"--output saves an answer with one tensor; this one has {len(tensors)} ({have})")
    import numpy

    ((name, array),) = tensors.items()
    if array.dtype.name == "bfloat16":
        array = array.astype(numpy.float32)  # a file of bfloat16 cannot be read back without its package
    try:
        with open(path, "wb") as file:
            numpy.save(file, array, allow_pickle=False)
    except OSError as error:
        raise InferdError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"{path}: {printable(name)} {_tensor_type(array)}")
