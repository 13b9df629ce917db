"""The units as `inferd systemd` renders them, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from inferd.cli import cli
from inferd.cli.systemd import DROP_INS, _word, files
from inferd.errors import ConfigError

ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
EXPOSURE = re.compile(r"Overall exposure level for inferd.service: ([0-9.]+)")


def version() -> int:
    """systemd's."""
    if ANALYZE is None:
        return 0
    said = subprocess.run([ANALYZE, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", said)[0])


def installed(prefix: Path, *words: str) -> Path:
    """`inferd systemd install` into a folder; the folder of the units."""
    done = CliRunner().invoke(cli, ["systemd", "install", "--prefix", str(prefix), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return prefix / ("systemd/user" if "--user" in words else "etc/systemd/system")


def with_drop_ins(*names: str) -> list[str]:
    return [word for name in names for word in ("--with", name)]


@needs_analyze
@pytest.mark.parametrize(
    "words",
    [(), *[with_drop_ins(name) for name in DROP_INS], with_drop_ins(*DROP_INS[:3]), ("--user",)],
    ids=["plain", *DROP_INS, "all", "user"],
)
def test_systemd_finds_nothing_to_say(tmp_path: Path, words: tuple[str, ...]) -> None:
    """`systemd-analyze verify --recursive-errors=yes` is silent for every unit: unknown keys and words would not be."""
    if "notify-reload" in words and version() < 253:
        pytest.skip("Type=notify-reload needs systemd 253")
    folder = installed(tmp_path, *words)
    units = sorted(str(path) for path in folder.glob("inferd*.*") if path.is_file())
    assert units
    scope = ["--user"] if "--user" in words else []
    done = subprocess.run(
        [str(ANALYZE), "verify", "--recursive-errors=yes", "--man=no", *scope, *units],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


@needs_analyze
@pytest.mark.parametrize(
    ("drop_ins", "most"),
    [
        (("socket-activation", "private-network"), 0.5),
        (("socket-activation", "private-network", "cuda"), 0.6),
        ((), 1.2),
        (("cuda",), 1.4),
    ],
    ids=["sockets from systemd", "the same with a GPU", "its own sockets", "its own, with a GPU"],
)
def test_how_much_of_the_machine_it_is_exposed_to(tmp_path: Path, drop_ins: tuple[str, ...], most: float) -> None:
    """No more than docs/GUARANTEES.md promises, by `systemd-analyze security --offline=true`, which loads the drop-ins
    in the unit's folder as systemd does."""
    unit = installed(tmp_path, *with_drop_ins(*drop_ins)) / "inferd.service"
    done = subprocess.run(
        # In tenths: above it the exit status is 1.
        [str(ANALYZE), "security", "--offline=true", f"--threshold={round(most * 10)}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = EXPOSURE.search(done.stdout)
    assert found is not None and done.returncode == 0 and float(found[1]) <= most, done.stdout[-2000:] + done.stderr


@needs_analyze
def test_the_drop_ins_are_what_is_judged(tmp_path: Path) -> None:
    """Without this the figure above could be the bare unit's: each drop-in changes a line of the table."""
    lines = {}
    for name in ("", "private-network", "cuda"):
        unit = installed(tmp_path / (name or "bare"), *(("--with", name) if name else ())) / "inferd.service"
        said = subprocess.run(
            [str(ANALYZE), "security", "--offline=true", str(unit)], capture_output=True, text=True, check=True
        ).stdout
        lines[name] = {line.split()[1]: line.split()[0] for line in said.splitlines() if "=" in line}
    assert (lines[""]["PrivateNetwork="], lines["private-network"]["PrivateNetwork="]) == ("✗", "✓")
    assert (lines[""]["PrivateDevices="], lines["cuda"]["PrivateDevices="]) == ("✓", "✗")


def test_what_is_printed_is_what_is_installed(tmp_path: Path) -> None:
    """Every placeholder is filled in, this interpreter is started, and the configuration that is there stays."""
    words = ["--prefix", str(tmp_path), *with_drop_ins(*DROP_INS)]
    printed = CliRunner().invoke(cli, ["systemd", "print", *words], catch_exceptions=False).output
    assert not re.search(r"@[A-Z_]+@", printed)
    assert f"ExecStart={_word(sys.executable)} -P -m inferd serve" in printed
    config = tmp_path / "etc/inferd/inferd.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n")
    installed(tmp_path, *with_drop_ins(*DROP_INS))
    assert config.read_text() == "# mine\n"
    for path in re.findall(r"^# ---- (.*)$", printed, re.MULTILINE):
        assert Path(path).is_file() and (path == str(config) or Path(path).read_text() in printed)
    first = installed(tmp_path / "again")
    assert 'listen = ["inferd://127.0.0.1:7433"' in (first.parents[1] / "inferd/inferd.toml").read_text()


def test_a_path_is_one_word_of_a_unit() -> None:
    """Blanks are quoted, and what systemd would take for its own is doubled."""
    assert _word("/opt/inferd/bin/python") == "/opt/inferd/bin/python"
    assert _word("/a b/100%/$x/python") == '"/a b/100%%/$$x/python"'


def test_a_users_service_takes_no_drop_ins(tmp_path: Path) -> None:
    """They ask for what a user's systemd cannot do; the sentence says so, and nothing is written."""
    words = ["systemd", "install", "--user", "--with", "cuda", "--prefix", str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code != 0 and "system service" in str(done.exception) and not list(tmp_path.iterdir())


def test_below_a_prefix_nothing_is_started_on_this_machine(tmp_path: Path) -> None:
    """What is said to do next is done to the image that the files are in."""
    done = CliRunner().invoke(cli, ["systemd", "install", "--prefix", str(tmp_path)], catch_exceptions=False)
    following = done.output.partition("Next:\n")[2]
    assert f"systemctl --root={tmp_path} enable inferd.service" in following and "--now" not in following
    words = ["systemd", "install", "--user", "--prefix", str(tmp_path)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "systemctl" not in done.output.partition("Next:\n")[2]


def test_only_the_systems_service_is_warned_of_its_own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's service sees /tmp as the user does."""
    monkeypatch.setattr(sys, "executable", "/tmp/venv/bin/python")
    words = ["systemd", "install", "--prefix", str(tmp_path)]
    assert "PrivateTmp" in CliRunner().invoke(cli, words, catch_exceptions=False).stderr
    assert "PrivateTmp" not in CliRunner().invoke(cli, [*words, "--user"], catch_exceptions=False).output


def test_a_folder_that_is_roots_is_a_sentence(tmp_path: Path) -> None:
    """What cannot be written is named."""
    (tmp_path / "etc").write_text("")
    done = CliRunner().invoke(cli, ["systemd", "install", "--prefix", str(tmp_path)])
    assert done.exit_code != 0 and str(tmp_path / "etc") in str(done.exception)


def test_a_user_without_a_home_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, by a number that no list of users has."""

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigError, match=r"no home folder.* XDG_CONFIG_HOME"):
        list(files(for_user=True, drop_ins=(), prefix=None))
