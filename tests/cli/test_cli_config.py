"""`inferd config`: what is wrong with a file, what would be served, and that `serve` says the same."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import trustme

from inferd.config import SETTINGS
from tests.cli.test_cli_serve import serving

ROOT = Path(__file__).parents[2]
FIVE = ("nope.pem", "nokey.pem", "noca.pem", "64 of the digits", "'1Score'")
BAD = "[limits]\nslab_mb = 5\n[log]\nlevel = 'loud'\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and no INFERD_* variable."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INFERD_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_check_says_all_that_is_wrong(inferd, folder: Path) -> None:
    """A line for each mistake on standard error, and 78; with none one line on standard output, and 0."""
    (folder / "inferd.toml").write_text(BAD)
    said = inferd("config", "check", "inferd.toml")
    assert (said.code, said.out) == (78, "")
    assert said.err.splitlines() == [
        "inferd.toml:2: 'slab_mb' is no key of [limits]; did you mean 'slab_mib'?",
        "inferd.toml:4: level: 'loud' is not among debug, info, warning, error",
    ]
    (folder / "inferd.toml").write_text('[models.ner]\ntarget = "ner"\n')
    assert inferd("config", "check", "inferd.toml") == (0, "inferd.toml: nothing is wrong. It serves ner\n", "")
    said = inferd("config", "check", "nothing.toml")
    assert said.code == 78 and said.err.startswith("nothing.toml: No such file") and said.err.count("\n") == 1


def test_check_says_each_file_that_is_missing_and_each_mistake_once(inferd, folder: Path) -> None:
    """With its line; what is no pin is not compared with the file as well."""
    (folder / "score.py").write_text("class Score: ...\n")
    (folder / "inferd.toml").write_text(
        """listen = ["inferds://127.0.0.1:0"]
[tls]
cert = "nope.pem"
key = "nokey.pem"
client_ca = "noca.pem"
[models.a]
target = "score.py:Score"
sha256 = "abc"
[models.b]
target = "score.py:1Score"
"""
    )
    said = inferd("config", "check", "inferd.toml").err.splitlines()
    assert [(line.partition(" ")[0], word in line) for line, word in zip(said, FIVE, strict=True)] == [
        ("inferd.toml:3:", True),
        ("inferd.toml:4:", True),
        ("inferd.toml:5:", True),
        ("inferd.toml:8:", True),
        ("inferd.toml:10:", True),
    ], said


def test_a_folder_that_is_gone_is_a_sentence(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for verb in (("serve", "score.py:Score"), ("config", "check", "x.toml"), ("config", "show", "a.py:A")):
        said = inferd(*verb)
        assert said.code == 78 and "has been deleted" in said.err and said.err.count("\n") == 1, said


def test_what_show_says_of_the_gateway_can_be_written_into_the_file(inferd, folder: Path) -> None:
    (folder / "inferd.toml").write_text('[web]\nlisten = "127.0.0.1:7480"\n')
    [line] = [
        line for line in inferd("config", "show", "--config", "inferd.toml").out.splitlines() if "web.listen" in line
    ]
    assert line.split()[1] == "127.0.0.1:7480"


def test_check_is_about_the_file_alone(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever checks are not those of the service."""
    monkeypatch.setenv("INFERD_SLAB_MIB", "much")
    (folder / "inferd.toml").write_text("")
    assert inferd("config", "check", "inferd.toml").code == 0
    assert inferd("config", "show", "--config", "inferd.toml").code == 78


def test_serve_and_show_say_the_same(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake is a line that begins with `inferd: `; the flags' are among them; exit 78."""
    (folder / "inferd.toml").write_text(BAD)
    monkeypatch.setenv("INFERD_CONFIG", "inferd.toml")
    for verb in (("serve",), ("config", "show")):
        said = inferd(*verb, "--arena-mib", "1")
        assert (said.code, said.out) == (78, "")
        assert [line.split(" ")[:2] for line in said.err.splitlines()] == [
            ["inferd:", "inferd.toml:2:"],
            ["inferd:", "inferd.toml:4:"],
            ["inferd:", "--arena-mib"],
        ]


def test_no_file_is_not_an_empty_name(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config "$UNSET"` would serve without what the file asks for, as would `--tokens "$UNSET"`: exit 78.
    An empty variable is none."""
    for verb in (("serve",), ("config", "show")):
        for flag in ("--config", "--tokens", "--tls-client-ca"):
            for empty in ("", " "):
                said = inferd(*verb, flag, empty)
                sentence = f"inferd: {flag}: this is empty, and names no file; name one, or leave it out\n"
                assert said == (78, "", sentence)
    assert inferd("config", "check", "") == (78, "", "inferd: FILE is empty, and names no file\n")
    monkeypatch.setenv("INFERD_CONFIG", "")
    assert inferd("config", "show").code == 0


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_tokens_that_others_can_read_are_a_mistake(inferd, folder: Path, mode: int) -> None:
    """So are tokens that are not there, and a line that is none; never with a token in the sentence."""
    tokens = folder / "tokens"
    (folder / "inferd.toml").write_text('\n[auth]\ntokens = "tokens"\n')

    def said() -> str:
        found = inferd("config", "check", "inferd.toml")
        assert found.code == 78 and found.err.count("\n") == 1 and found.err.startswith("inferd.toml:3: tokens ")
        return str(found.err)

    assert "No such file" in said()
    tokens.write_text("ada: 0123456789abcdef\n")
    tokens.chmod(mode)
    assert f"mode {mode:04o}" in said() and "chmod 600" in said()
    tokens.write_text("ada: 0123456789abcdef\nbob: 0123456789abcdef secret-secret-secret\n")
    tokens.chmod(0o600)
    assert "line 2" in said() and "secret-secret" not in said()


def test_certificates_are_looked_at(inferd, folder: Path) -> None:
    """What is no certificate is told with the line that names it."""
    for name in ("cert.pem", "key.pem"):
        (folder / name).write_text("nothing")
        (folder / name).chmod(0o600)
    (folder / "inferd.toml").write_text('listen = ["inferds://127.0.0.1"]\n[tls]\ncert = "cert.pem"\nkey = "key.pem"\n')
    said = inferd("config", "check", "inferd.toml")
    assert said.code == 78 and said.err.startswith("inferd.toml:3: tls_cert") and "PEM" in said.err


def test_another_file_than_the_pinned_one_is_a_mistake(inferd, folder: Path) -> None:
    """With both digests, of `check` and of `show`; `serve` leaves that to its workers, which look at what they run."""
    (folder / "net.py").write_text("class Net: ...\n")
    (folder / "inferd.toml").write_text(f'[models.net]\ntarget = "net.py:Net"\nsha256 = "{"a" * 64}"\n')
    for words in (("check", "inferd.toml"), ("show", "--config", "inferd.toml")):
        said = inferd("config", *words)
        assert said.code == 78 and said.err.count("\n") == 1 and "inferd.toml:2: model 'net': " in said.err
        assert "a" * 64 in said.err and sha256((folder / "net.py").read_bytes()).hexdigest() in said.err


def test_show_has_every_setting_and_its_origin(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, unit, and default, file and line, variable or flag; secrets and what looks like one are not shown."""
    (folder / "net.py").write_text("class Net: ...\n")
    (folder / "tokens").write_text("ada: 0123456789abcdef\n")
    (folder / "tokens").chmod(0o600)
    (folder / "inferd.toml").write_text(
        '[limits]\nslab_mib = 512\n[auth]\ntokens = "tokens"\n'
        '[models.net]\ntarget = "net.py:Net"\noptions.width = 5\noptions.api_key = "xyzzy"\n'
    )
    monkeypatch.setenv("INFERD_MAX_CONNECTIONS", "99")
    said = inferd("config", "show", "--config", "inferd.toml", "--drain-timeout-s", "2.5")
    assert said.code == 0 and said.err == ""
    rows = [" ".join(line.split()) for line in said.out.splitlines()]
    assert [row.split()[0] for row in rows[1 : 1 + len(SETTINGS)]] == [setting.place for setting in SETTINGS.values()]
    digest = sha256((folder / "net.py").read_bytes()).hexdigest()
    for row in (
        "limits.slab_mib 512 MiB inferd.toml:2",
        "limits.arena_mib 256 MiB default",
        "limits.max_connections 99 INFERD_MAX_CONNECTIONS",
        "limits.drain_timeout_s 2.5 s --drain-timeout-s",
        f"auth.tokens {folder}/tokens inferd.toml:4",
        f"net target = {folder}/net.py:Net inferd.toml:6",
        "options.width = 5",
        "options.api_key = (not shown)",
        f'no pin; to pin it: sha256 = "{digest}"',
    ):
        assert row in rows, said.out
    assert "xyzzy" not in said.out and "0123456789abcdef" not in said.out
    said = inferd("config", "show", "ner", "--config", "inferd.toml")
    assert "net.py" not in said.out and "ner    target = ner  command line" in said.out


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ('db = {user = "me", password = "xyzzy"}', 'db = {"user": "me", "password": "(not shown)"}'),
        ('db = [[{at.passwd = "xyzzy"}], 1]', 'db = [[{"at": {"passwd": "(not shown)"}}], 1]'),
        ('secrets = ["xyzzy", {a = "xyzzy"}]', "secrets = (not shown)"),
        ('headers = {Authorization = "Basic xyzzy"}', 'headers = {"Authorization": "(not shown)"}'),
        ("tokenizer = 'bpe'\noptions.max_tokens = 512", 'tokenizer = "bpe"\noptions.max_tokens = 512'),
        ("author = 'Ada'\noptions.authority = 'x'", 'author = "Ada"\noptions.authority = "x"'),
        ("keyboard = 'us'\noptions.num_key_value_heads = 4", 'keyboard = "us"\noptions.num_key_value_heads = 4'),
        ("bypass = 1\noptions.keys = 2\noptions.passes = 3", "bypass = 1\noptions.keys = 2\noptions.passes = 3"),
        *[
            (f"{key} = 'xyzzy'", f"{key} = (not shown)")
            for key in (
                *("auth", "auth_header", "basicAuth", "HTTPAuth", "oauth2", "authorization", "bearer", "private_key"),
                *("privateKey", "credential", "credentials", "passphrase", "apiKey", "APIKey", "access_key"),
                *("token", "hfToken", "authtoken", "authtokens", "tokens", "client_secret"),
                *("pass", "db_pass", "dbPass", "pwd", "dbpwd", "db_pwd", "dsn", "sentryDsn", "jwt"),
                *("signing_key", "signingKey", "x_key", "host_keys"),
            )
        ],
    ],
)
def test_what_looks_like_a_secret_is_not_shown(inferd, folder: Path, options: str, shown: str) -> None:
    """However deep in an argument it is. What is only called alike is: max_tokens, tokenizer, author."""
    (folder / "inferd.toml").write_text(f'[models.v]\ntarget = "virtual"\noptions.{options}\n')
    said = inferd("config", "show", "--config", "inferd.toml")
    assert said.code == 0 and "xyzzy" not in said.out
    rows = [line.strip() for line in said.out.splitlines()]
    assert [row for row in rows if row.startswith("options.")] == f"options.{shown}".split("\n")


def test_show_changes_nothing(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default socket's folder is named and not made."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert f"inferd+unix://{folder}/inferd-{os.getuid()}/inferd.sock" in inferd("config", "show").out
    assert list(folder.iterdir()) == []


def test_the_example_is_right(inferd, folder: Path) -> None:
    """examples/inferd.toml as it stands, and with all its comments taken as settings."""
    example = ROOT / "examples" / "inferd.toml"
    assert inferd("config", "check", str(example)).code == 0
    lines = example.read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if not line)
    meant = [line.removeprefix("# ") for line in lines[head:] if "=" in line or line.strip("# ").startswith("[")]
    text = "\n".join(line for line in meant if not line.startswith(("# ", "The ", "Where ", "A ")))
    (folder / "inferd.toml").write_text(text.replace('sha256 = "…"', f'sha256 = "{sha256(b"").hexdigest()}"'))
    (folder / "policy.py").write_text("")
    (folder / "tokens").write_text("ada: 0123456789abcdef\n")
    (folder / "tokens").chmod(0o600)
    said = inferd("config", "check", "inferd.toml").err.splitlines()
    # The certificate is the reader's own to bring.
    assert [
        line for line in said if "no listener speaks TLS" not in line and ".pem: there is no such" not in line
    ] == []
    for setting in SETTINGS.values():
        assert f"{setting.key} = " in text, f"{setting.place} is not in the example"


def test_serve_reads_the_file_anew(folder: Path) -> None:
    """The daemon serves what the file says, and reads it again for a reload; a wrong one changes nothing, and the log
    has its lines."""
    (folder / "inferd.toml").write_text('[models.small]\ntarget = "virtual"\n[limits]\nmax_in_flight = 7\n')
    with serving(folder, "--config", "inferd.toml") as (process, said):
        assert "is ready: small on" in said[-1], said
        (folder / "inferd.toml").write_text(BAD)
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        with contextlib.closing(process.stdout):
            failed = next(line for line in process.stdout if "reload_failed" in line)
            lines = [failed, *(next(process.stdout) for _ in range(2))]
            assert "inferd.toml:2: 'slab_mb'" in "".join(lines) and "inferd.toml:4: level: 'loud'" in "".join(lines)
            assert process.poll() is None


def test_reread_is_handed_to_the_daemon(inferd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words and variables, the file read anew."""
    seen = []
    monkeypatch.setattr(sys.modules["inferd.cli.serve"], "_run", lambda *given: seen.append(given))
    (folder / "inferd.toml").write_text("[limits]\nslab_mib = 512\n")
    monkeypatch.setenv("INFERD_ARENA_MIB", "8")
    assert inferd("serve", "echo", "--config", "inferd.toml", "--max-in-flight", "5").code == 0
    settings, _, reread, _ = seen[0]
    assert (settings.slab_mib, settings.arena_mib, settings.max_in_flight) == (512, 8, 5)
    assert reread() == settings
    monkeypatch.setenv("INFERD_ARENA_MIB", "16")
    (folder / "inferd.toml").write_text("[limits]\nslab_mib = 300\n")
    again = reread()
    assert (again.slab_mib, again.arena_mib, again.max_in_flight) == (300, 8, 5)
    (folder / "inferd.toml").unlink()
    with pytest.raises(Exception, match="No such file"):
        reread()


def test_a_certificate_that_ends_soon_is_told_once_in_a_sentence(inferd, folder: Path) -> None:
    """By `check` and `show` as a warning, by `doctor` as a finding, and by `serve` in its log."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    made = trustme.CA().issue_cert("127.0.0.1", not_after=soon)
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)
    (folder / "inferd.toml").write_text(
        'listen = ["inferds://127.0.0.1:0"]\n[tls]\ncert = "cert.pem"\nkey = "key.pem"\n[models.e]\ntarget = "echo"\n'
    )
    for words in (("config", "check", "inferd.toml"), ("config", "show", "--config", "inferd.toml")):
        said = inferd(*words)
        assert said.code == 0 and said.err.count("\n") == 1
        assert said.err.startswith(f"warning: tls_cert {folder}/cert.pem expires on {soon:%b} ")
    said = inferd("doctor", "--config", "inferd.toml", "--device", "cpu")
    assert said.out.count("cert.pem expires on") == 1 and "ends_soon" not in said.err
    with serving(folder, "--config", "inferd.toml", "--listen", "inferds://127.0.0.1:0") as (_, lines):
        [line] = [line for line in lines if "certificate_ends_soon" in line]
        assert f"path={folder}/cert.pem" in line and " warning " in line
