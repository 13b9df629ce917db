"""`inferd models` and `inferd status`."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
from typing import Any

from inferd.cli.common import signature_text
from inferd.cli.status import duration, status_lines

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "pid": 4321,
    "uptime_s": 3725.0,
    "state": "ready",
    "connections": 2,
    "in_flight": 5,
    "queued": 3,
    "slab": {"used_bytes": 3 << 20, "bytes": 256 << 20},
    "workers": [
        {"id": 0, "pid": 99, "device": "cpu", "state": "busy", "batches": 10, "busy_s": 372.5, "deaths": 1},
    ],
    "models": [{"name": "ner", "results": 100, "rows": 200}],
    "counters": {"batches": 10, "refused_slab_full": 4},
}


def cells(lines: list[str], first: str) -> list[str]:
    """The words of the line that begins with `first`."""
    return next(line.split() for line in lines if line.split()[:1] == [first])


def test_models_are_a_table_of_signatures(inferd, daemon_url: str) -> None:
    """Name, inputs and outputs as dtype[shape], and the largest batch."""
    said = inferd("models", "--url", daemon_url)
    assert said.code == 0
    assert said.out.splitlines() == [
        "name     inputs        outputs       max batch",
        "echo     not declared  not declared        256",
        "virtual  x FP32[1]     y FP32[1]            64",
    ]


def test_models_as_json_are_what_the_daemon_announces(inferd, daemon_url: str) -> None:
    """--json is the list from WELCOME."""
    models = json.loads(inferd("models", "--json", "--url", daemon_url).out)
    assert models[1]["inputs"] == [["x", "FP32", [1]]]


def test_a_signature_reads_like_a_declaration() -> None:
    """* is any size, a value has no shape, nothing is none."""
    assert signature_text([["x", "FP32", [-1, 16]], ["t", "STRING", []]]) == "x FP32[*,16], t STRING"
    assert (signature_text([]), signature_text(None)) == ("none", "not declared")


def test_status_shows_everything_there_is() -> None:
    """State, queue, memory, each worker, each model, each counter."""
    lines = status_lines(STATUS)
    assert lines[0] == "inferd 1.2.3  ready  up 1 h 2 min  pid 4321"
    assert lines[1] == "queued 3  in flight 5  connections 2  slab 3.0 of 256 MiB"
    assert cells(lines, "0") == ["0", "cpu", "99", "busy", "10", "10", "%", "1"]
    assert cells(lines, "ner") == ["ner", "100", "200"]
    assert cells(lines, "refused_slab_full") == ["refused_slab_full", "4"]


def test_a_status_does_nothing_to_a_terminal() -> None:
    """Whoever answers: control characters are shown by their codes."""
    lines = status_lines(STATUS | {"version": "\x1b]0;pwned\x07", "counters": {"\x9b2J": 1}})
    assert all(line.isprintable() for line in lines) and "\\x1b]0;pwned" in lines[0]


def test_rates_are_differences_over_the_time_between() -> None:
    """With an earlier status, batches, busy time, results and counters come as rates too."""
    later = copy.deepcopy(STATUS)
    later["uptime_s"] += 2
    later["workers"][0].update(batches=30, busy_s=373.5)
    later["models"][0].update(results=300, rows=600)
    later["counters"].update(batches=30, failed_timeout=6)
    lines = status_lines(later, STATUS, 2.0)
    assert cells(lines, "0") == ["0", "cpu", "99", "busy", "30", "10.0", "50", "%", "1"]
    assert cells(lines, "ner") == ["ner", "300", "100.0", "600", "200.0"]
    assert cells(lines, "batches") == ["batches", "30", "10.0"]
    assert cells(lines, "failed_timeout") == ["failed_timeout", "6", "3.0"]


def test_a_daemon_started_anew_has_no_rates() -> None:
    """A smaller uptime means other counters: no difference is taken."""
    anew = {**STATUS, "uptime_s": 1.0}
    assert status_lines(anew, STATUS, 1.0) == status_lines(anew)


def test_durations_are_said_with_two_units() -> None:
    """Seconds, minutes, hours, days."""
    assert [duration(s) for s in (6.71, 306, 14_700, 273_600)] == ["6.7 s", "5 min 6 s", "4 h 5 min", "3 d 4 h"]


def test_status_of_a_real_daemon(inferd, daemon_url: str) -> None:
    """What `inferd status` understands is what the daemon says."""
    said = inferd("status", "--url", daemon_url)
    assert said.code == 0 and "ready" in said.out.splitlines()[0]
    assert json.loads(inferd("status", "--json", "--url", daemon_url).out)["state"] == "ready"


def test_watching_goes_on(daemon_url: str) -> None:
    """--watch with --json is a line for each look, until it is stopped."""
    command = [sys.executable, "-m", "inferd", "status", "--watch", "0.1", "--json", "--url", daemon_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout
        uptimes = [json.loads(watching.stdout.readline())["uptime_s"] for _ in range(3)]
        watching.terminate()
    assert uptimes == sorted(uptimes) and uptimes[0] < uptimes[2]


def test_a_name_that_is_not_known_is_nobodys_daemon(inferd, monkeypatch) -> None:
    """There is no daemon to start then, but a name to mend."""

    def unknown(*where: Any, **how: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = inferd("status", "--url", "inferd://misspelt")
    assert said.code == 1 and "check the name in --url or INFERD_URL" in said.err
    assert "is a daemon running there?" not in said.err
