# ruff: noqa: E501 (a file and its sentence, side by side)
"""inferd.toml: what it may say, and what is said of each mistake, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.config import SETTINGS, ModelConfig
from inferd.config.file import ConfigFile
from inferd.config.read import Mistaken, Sources, read
from inferd.errors import ConfigError


def write(folder: Path, text: str) -> str:
    path = folder / "inferd.toml"
    path.write_text(text)
    return str(path)


def mistakes(folder: Path, text: str) -> list[str]:
    """What is said of a file, by lines, without its path; [] if nothing is."""
    path = write(folder, text)
    try:
        read(Sources(path=path))
    except Mistaken as mistaken:
        return [str(mistake).replace(f"{path}:", "") for mistake in mistaken.mistakes]
    return []


def test_all_that_a_file_may_say(tmp_path: Path) -> None:
    """Every table, with paths as seen from the file's folder, and each value where it comes from."""
    (tmp_path / "net.py").write_text("")
    path = write(
        tmp_path,
        f"""
listen = ["inferd://127.0.0.1:7000", "inferds://127.0.0.1:7001", "inferd+unix:///tmp/a.sock"]
devices = ["cuda:0", "cuda:1"]
[models.net]
target = "net.py:Net"
sha256 = "{"a" * 64}"
options.width = 5
[models.ner]
target = "ner"
[limits]
slab_mib = 512
drain_timeout_s = 5
[auth]
tokens = "secrets/tokens"
allow_uids = [1000, 1001]
[tls]
cert = "cert.pem"
key = "/etc/key.pem"
[web]
listen = "127.0.0.1:80"
origins = ["https://demo.example"]
[log]
format = "json"
""",
    )
    found = read(Sources(path=path))
    have = found.settings
    net = ModelConfig("net", f"{tmp_path}/net.py:Net", {"width": 5}, "a" * 64)
    assert have.models == (net, ModelConfig("ner", "inferd.models.ner:Ner"))
    assert [str(a) for a in have.listen][1] == "inferds://127.0.0.1:7001" and have.listen[1].tls
    assert (have.devices, have.slab_mib, have.arena_mib) == (("cuda:0", "cuda:1"), 512, 256)
    assert have.drain_timeout_s == 5.0 and isinstance(have.drain_timeout_s, float)
    assert (have.tokens, have.allow_uids) == (f"{tmp_path}/secrets/tokens", (1000, 1001))
    assert (have.tls_cert, have.tls_key) == (f"{tmp_path}/cert.pem", "/etc/key.pem")
    assert str(have.web) == "inferd://127.0.0.1:80" and have.web_origin == ("https://demo.example",)
    assert (have.log_format, have.log_level) == ("json", "info")
    lines = {name: origin.removeprefix(f"{path}:") for name, origin in found.origins.items()}
    assert (lines["listen"], lines["slab_mib"], lines["web"], lines["models.ner"]) == ("2", "11", "20", "9")
    assert lines["arena_mib"] == lines["log_level"] == "default"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """So is none."""
    assert read(Sources(path=write(tmp_path, "# nothing\n"))) == read(Sources())
    assert [model.name for model in read(Sources()).settings.models] == ["echo", "ner", "virtual"]


TEN = """\
listen = ["inferd+unix:///run/inferd/inferd.sock",
          "inferd://0.0.0.0:7999"]
devices = ["gpu"]

[limits]
slab_mb = 512
arena_mib = "1 GiB"
payload_mib = 128
max_in_flight = 0

[models.net]
target = "net.pt2"

[log]
level = "verbose"

[models.net]
target = "net.py:Net"

[limit]
max_connections = 5
"""


def test_ten_mistakes_are_ten_sentences_each_with_its_line(tmp_path: Path) -> None:
    """In the order of the lines, every one with what to do; one slip hides no other."""
    found = mistakes(tmp_path, TEN)
    expected = [
        (2, "inferd://0.0.0.0:7999 can be reached from other machines, and no tokens are asked for"),
        (3, "'gpu' is no device: use cpu, cuda, cuda:N or auto; did you mean 'cuda'?"),
        (6, "'slab_mb' is no key of [limits]; did you mean 'slab_mib'?"),
        (7, 'arena_mib must be a whole number of MiB, 4 to 16777216, not the text "1 GiB": write arena_mib = 1024'),
        (8, "payload_mib = 128 is over a quarter of slab_mib = 256"),
        (9, "max_in_flight must be a whole number, 1 to 65535, not 0"),
        (12, "'net.pt2' is no model: opening a .pt2 file can run code"),
        (15, "'verbose' is not among debug, info, warning, error"),
        (17, "models.net is there twice, first on line 11"),
        (20, "there is no table [limit]; did you mean [limits]?"),
    ]
    assert [int(sentence.partition(":")[0]) for sentence in found] == [line for line, _ in expected]
    for sentence, (_, words) in zip(found, expected, strict=True):
        assert words in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nslab_mib = 536870912", "2: slab_mib must be a whole number of MiB, 4 to 16777216, not 536870912; it "
         "is counted in MiB: did you mean 512?"),
        ("[limits]\nslab_mib = true", "2: slab_mib must be a whole number of MiB, 4 to 16777216, not true"),
        ("[limits]\nslab_mib = 512.0", "2: slab_mib must be a whole number of MiB, 4 to 16777216, not 512.0"),
        ('[limits]\ndrain_timeout_s = "2 min"', "2: drain_timeout_s must be a number of seconds, 0 to 86400, not the text "
         '"2 min": write drain_timeout_s = 120'),
        ("[limits]\ndrain_timeout_s = nan", "2: drain_timeout_s must be a number of seconds, 0 to 86400, not nan"),
        ("[limits]\nlisten = []", "2: 'listen' is no key of [limits]; it is written at the top, before the first table"),
        ("slab_mib = 8", "1: 'slab_mib' is no key of the top of the file; it is written in [limits]"),
        ("[tls]\ntls_cert = ''", "2: 'tls_cert' is no key of [tls]; write cert"),
        ("[web]\nweb_origin = []", "2: 'web_origin' is no key of [web]; write origins"),
        ("[log]\ncolour = 1", "2: 'colour' is no key of [log]; there are: format, level"),
        ("limits = 5", "1: limits must be a table: begin it with a line [limits]"),
        ('listen = "inferd://127.0.0.1"', '1: listen must be a list, not the text "inferd://127.0.0.1": write listen = […]'),
        ('listen = ["inferd://127.0.0.1:1",\n"inferd://127.0.0.1:1"]', "2: inferd://127.0.0.1:1 is there twice; take one "
         "out"),
        ('listen = ["inferd+unix:///a",\n"inferd+unix:///a"]', "2: inferd+unix:///a is there twice; take one out"),
        ("listen = [\n1979-05-27]", "2: listen must be an address in quotes, as in inferd://127.0.0.1, not a date or time"),
        ("[auth]\nallow_uids = [0,\n-1]", "3: allow_uids must be a whole number, 0 to 4294967294, not -1"),
        ('[[models]]\ntarget = "ner"', "1: models must be tables by name: begin each with a line [models.NAME]"),
        ('[models]\nner = "ner"', '2: model \'ner\' must be a table: write [models.ner], and target = "…" below it'),
        ('[models."a b"]\ntarget = "ner"', "1: 'a b' cannot name a model: use letters, digits, '.', '_' and '-', at most "
         "64"),
        ('[models.ner]\ntarget = "ner"\nwidth = 5', "3: 'width' is no key of [models.ner]; an argument of the model itself "
         "is written options.width"),
        ('[models.ner]\ntarget = "ner"\noptions = 1', "3: options must be a table: write options.KEY = VALUE"),
        ('[models.ner]\ntarget = "ner"\noptions.a-b = 1', "3: options.a-b cannot be an argument: use a name of Python"),
        ('[models.ner]\ntarget = "ner"\noptions.a = [1,\n99999999999999999999]', "4: options.a is 99999999999999999999: a "
         "model's arguments are text, numbers of up to 64 bits, true or false, lists and tables"),
        (f'[models.ner]\ntarget = "ner"\nsha256 = "{"a" * 64}"', "3: sha256 pins the file of file.py:Name or the weights of "
         "hf:FOLDER; this target is neither"),
        ('[models.net]\ntarget = "/nowhere/net.py:Net"', "2: model 'net': there is no file /nowhere/net.py"),
        ('[models.net]\ntarget = "hf:/nowhere"', "2: model 'net': there is no folder /nowhere"),
        ('[models.net]\ntarget = "nowhere.net:Net"', "2: model 'net': there is no module 'nowhere' here; install it, or name "
         "a file: nowhere.py:Name"),
        ("[models.net]", "1: model 'net' needs its target in quotes: file.py:Name, package.module:Name, hf:FOLDER, or a "
         "built-in model's name"),
        ('[web]\nlisten = "127.0.0.1:7433"\n[limits]\n[auth]', ""),
        ('listen = ["inferd://127.0.0.1:7433"]\n[web]\nlisten = "127.0.0.1:7433"', "3: the gateway and a listener both want "
         "127.0.0.1:7433; change one"),
        ("[limits]\nslab_mib = 128", "2: payload_mib = 64 is over a quarter of slab_mib = 128, so that a few requests would "
         "own all input memory; 64 is the default of payload_mib: write payload_mib = 32, or set slab_mib to at least 256"),
        ("[limits]\npayload_mib = 65", "2: payload_mib = 65 is over a quarter of slab_mib = 256, so that a few requests would "
         "own all input memory; write payload_mib = 64, or set slab_mib to at least 260"),
        ("devices = []", '1: devices names none; write devices = ["auto"]'),
        ('listen = ["inferd://nobody.invalid:7999"]', "1: inferd://nobody.invalid:7999: this machine knows no host "
         "'nobody.invalid'; check how it is written"),
        ('[models.net]\ntarget = "./sub:Net"', "2: [models.net]: './sub:Net' is no model: a file of Python ends in .py; write "
         "./sub.py:Net"),
        ('[models.net]\ntarget = ".sub:Net"', "2: [models.net]: '.sub:Net' is no model: a module is named with all its "
         "packages, and no dot before them: package.module:Net"),
        ('[models.net]\ntarget = "net.py"', "2: [models.net]: 'net.py' does not say which model of the file: write net.py:Name"),
        ("\ufeff[limits]\nslab_mib = 256", ""),
        (f"[limits]\nslab_mib = {'1' * 5000}", "2: a number here has more than 4300 digits, and no setting is that large"),
        (f"[limits]\nslab_mib = 0x{'f' * 400}", "2: slab_mib must be a whole number of MiB, 4 to 16777216, not a number of "
         "more than 300 digits"),
        (f"[limits]\ndrain_timeout_s = 0x{'f' * 400}", "2: drain_timeout_s must be a number of seconds, 0 to 86400, not a "
         "number of more than 300 digits"),
        (f'[limits]\nslab_mib = "{"9" * 5000}G"', "2: slab_mib must be a whole number of MiB, 4 to 16777216, not the text "
         f'"{"9" * 40}"'),
        (f'[models.ner]\ntarget = "ner"\noptions.a = 0x{"f" * 5000}', "3: options.a is a number of more than 300 digits: a "
         "model's arguments are text, numbers of up to 64 bits, true or false, lists and tables"),
        ('[auth]\ntokens = "~a\\u0000b/c"', "2: tokens: there is a NUL byte in this path, and no file has one in its name; take "
         "it out"),
        ('listen = ["inferd+unix:///a\\u0000b"]', "1: listen: 'inferd+unix:///a\\x00b' is no address: there is a NUL byte in it; "
         "take it out"),
        ('[models.net]\ntarget = "~a\\u0000b/c.py:X"', "2: [models.net]: '~a\\x00b/c.py:X' is no model: there is a NUL byte in "
         "it; take it out"),
        ('listen = ["inferds://127.0.0.1"]', "1: inferds://127.0.0.1:7433 needs a certificate and its private key; set cert "
         "and key in [tls] (--tls-cert, --tls-key)"),
        ('[tls]\nkey = "k"', "2: key in [tls] is of no use without cert; set both, or neither"),
        ('[tls]\ncert = "c"\nkey = "k"', "2: no listener speaks TLS, so nothing is encrypted; listen on inferds://, or drop "
         "[tls]"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    """One sentence, with the line, the wrong value, and the right form."""
    assert mistakes(tmp_path, text) == ([said] if said else [])


@pytest.mark.parametrize("place", ['listen = ["inferd://0.0.0.0:7999"]', '[web]\nlisten = "[::]:80"'])
def test_a_listener_for_all_needs_tokens(tmp_path: Path, place: str) -> None:
    """The sentence names the line and what to do; tokens, or the word that it is meant, make it right."""
    [said] = mistakes(tmp_path, place)
    assert "can be reached from other machines" in said and "tokens in [auth]" in said
    assert int(said.partition(":")[0]) == place.count("\n") + 1
    assert mistakes(tmp_path, place + '\n[auth]\ntokens = "t"') == []
    assert mistakes(tmp_path, place + "\n[auth]\ninsecure_no_auth = true") == []


def test_a_listener_for_all_may_ask_for_certificates(tmp_path: Path) -> None:
    """Mutual TLS is an answer to who may come in; TLS alone is not."""
    text = 'listen = ["inferds://0.0.0.0"]\n[tls]\ncert = "c"\nkey = "k"\n'
    assert "can be reached from other machines" in mistakes(tmp_path, text)[0]
    assert mistakes(tmp_path, text + 'client_ca = "ca"') == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("slab_mib 5\n[log]\nlevel = 'loud'", "1:10"),
        ("[limits]\nslab_mib = 08\n[log]\nlevel = 'loud'", "2:13"),
        ("[auth]\ntokens = \"a\n[log]\nlevel = 'loud'", "2:12"),
        ("[log]\nlevel = 'loud'\n[limits", "3:8"),
    ],
)
def test_what_is_no_toml_has_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    """And does not hide what is wrong elsewhere."""
    found = mistakes(tmp_path, text)
    assert any(sentence.startswith(f"{place}: this is no TOML: ") for sentence in found), found
    assert any("'loud' is not among" in sentence for sentence in found) and len(found) == 2


def test_what_cannot_be_read_is_not_missed(tmp_path: Path) -> None:
    """A slip in the line of the tokens is one mistake: nobody is told that there are none."""
    [said] = mistakes(tmp_path, 'listen = ["inferd://0.0.0.0"]\n[auth]\ntokens = "tokens\n')
    assert said.startswith("3:") and "this is no TOML" in said


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("[limits]\nslab_mib = 512\n[models.a\ntarget = 'echo'\n", ["3:10"]),
        ("[limits]\nslab_mib = 512\n[limits\npayload_mib = 128\n", ["3:8"]),
        ("[models.a\ntarget = 'echo'\n[limits\nslab = 5\n", ["1:10", "3:8"]),
        ("[models.a]\ntarget = 'echo\n", ["2:15"]),
    ],
)
def test_a_slip_has_no_false_consequences(tmp_path: Path, text: str, places: list[str]) -> None:
    """What stands below a header that is not closed is in no other table; each such header is told, and nothing else."""
    found = mistakes(tmp_path, text)
    assert [sentence.partition(": this is no TOML: Expected ")[0] for sentence in found] == places, found


@pytest.mark.parametrize("text", ["a = [\n[b]\nc = ", "[[[[", "=", '"""', "a = {" * 50])
def test_a_hopeless_file_is_one_mistake(tmp_path: Path, text: str) -> None:
    """What cannot be read on is not guessed at."""
    [said] = mistakes(tmp_path, text)
    assert "this is no TOML" in said


def test_a_key_that_is_there_twice_keeps_its_first_value(tmp_path: Path) -> None:
    """Both lines are named."""
    found = mistakes(tmp_path, "[limits]\nslab_mib = 2\nslab_mib = 1\n")
    assert found[1] == "3: limits.slab_mib is there twice, first on line 2; take one out"
    assert found[0].startswith("2: slab_mib must be") and len(found) == 2


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """Not there, a folder, no text, much too large, nested without end: one sentence."""
    (tmp_path / "binary").write_bytes(b"a = 1\n\xff")
    (tmp_path / "deep").write_text("a = " + "[" * 5000)
    (tmp_path / "large").write_bytes(b"\n" * 5_000_000)
    for name, words in (
        ("no", "No such file"),
        ("deep", "too deep"),
        ("", "directory"),
        ("binary", "binary:2: this is no"),
        ("large", "no con"),
    ):
        with pytest.raises(ConfigError, match=words):
            ConfigFile(str(tmp_path / name))


def test_credentials_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name that systemd has put into $CREDENTIALS_DIRECTORY is looked for there, any other beside the file."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "tokens").write_text("")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    path = write(tmp_path, '[auth]\ntokens = "tokens"\n[tls]\ncert = "cert.pem"')
    values = ConfigFile(path).values
    assert values == {"tokens": "tokens", "tls_cert": f"{tmp_path}/cert.pem"}


VALUES = st.recursive(
    st.sampled_from(["true", "5", "-1", "0.5", "nan", "inf", '""', '"x"', "'a\\b'", "1979-05-27", '"inferd://[::1"', "1e999"])
    | st.sampled_from([f'"{text}"' for text in ("hf:", "a.py:", ":", "file.py:Name", "127.0.0.1:99999", "\\u0000", "é=")]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    | st.tuples(st.sampled_from(["target", "x", '"a b"', "options"]), inner).map(lambda pair: f"{{ {pair[0]} = {pair[1]} }}"),
    max_leaves=4,
)  # fmt: skip
KEYS = st.sampled_from(
    [setting.place for setting in SETTINGS.values()]
    + ["models", "models.ner", "models.ner.target", "models.ner.options", "models.ner.sha256", "models.''.target", "limit.x"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=6), st.integers(0, 400), st.text(max_size=2))
def test_whatever_a_file_says_ends_in_sentences(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]], at: int, typed: str
) -> None:
    """Settings, or mistakes with their lines and no line breaks; never another exception."""
    text = "\n".join(f"{key} = {value}" for key, value in entries)
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes((text[:at] + typed + text[at:]).encode("utf-8", "surrogatepass"))
    try:
        read(Sources(path=str(path)))
    except Mistaken as mistaken:
        assert mistaken.mistakes
        for mistake in mistaken.mistakes:
            assert str(mistake).startswith(f"{path}:")
            assert mistake.sentence and "\n" not in mistake.sentence
