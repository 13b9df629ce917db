"""Where a value comes from: a flag before a variable, that before the file, that before the default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inferd.config import SETTINGS, ModelConfig, Settings
from inferd.config.definition import FILE, WHOLE
from inferd.config.read import Mistaken, Sources, read
from inferd.errors import ConfigError
from inferd.serve.reload import NEEDS_RESTART

# For each setting three texts that it can have, none of them its default.
TEXTS: dict[str, tuple[str, str, str]] = {
    "listen": ("inferd://127.0.0.1:1", "inferd://127.0.0.1:2", "inferd://127.0.0.1:3"),
    "devices": ("cpu", "cuda", "cuda:1"),
    "tokens": ("/a", "/b", "/c"),
    "tls_cert": ("/a", "/b", "/c"),
    "tls_key": ("/a", "/b", "/c"),
    "tls_client_ca": ("/a", "/b", "/c"),
    "web": ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    "web_origin": ("https://a", "https://b", "https://c"),
    "log_level": ("debug", "warning", "error"),
}
NUMBERS = ("4", "5", "6")


def quoted(text: str, is_text: bool, is_list: bool) -> str:
    value = f'"{text}"' if is_text else text
    return f"[{value}]" if is_list else value


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"insecure_no_auth", "log_format", "tls_key", "payload_mib"}))
def test_flag_over_variable_over_file_over_default(tmp_path: Path, name: str) -> None:
    """Every setting can be said in each way, and `origins` says which of them counted."""
    setting = SETTINGS[name]
    texts = TEXTS.get(name, NUMBERS)
    path = tmp_path / "inferd.toml"
    head = f"[{setting.table}]\n" if setting.table else ""
    others = {"payload_mib": "1"}  # what fits any slab
    if name.startswith("tls_"):
        others |= {"listen": "inferds://127.0.0.1:9", "tls_cert": "/x", "tls_key": "/y"}
    if name == "web_origin":
        others |= {"web": "127.0.0.1:9"}
    flags: dict[str, Any] = {key: (text,) if SETTINGS[key].repeatable else text for key, text in others.items()}
    flags.pop(name, None)
    path.write_text(f"{head}{setting.key} = {quoted(texts[0], name in TEXTS, setting.repeatable)}\n")
    said = Sources(flags=flags)
    expected = [(setting.default, "default")]
    for number, origin in enumerate((f"{path}:{1 + bool(head)}", setting.variable, setting.flag)):
        if number == 0:
            said = dataclasses.replace(said, path=str(path))
        elif number == 1:
            said = dataclasses.replace(said, environment={setting.variable: texts[1]})
        else:
            given = (texts[2],) if setting.repeatable else texts[2]
            said = dataclasses.replace(said, flags={**flags, name: given})
        found = read(said)
        value = setting.kind.parse(texts[number])
        expected.append(((value,) if setting.repeatable else value, origin))
        assert (getattr(found.settings, name), found.origins[name]) == expected[-1]
    assert read(Sources()).origins[name] == "default"
    assert getattr(read(Sources()).settings, name) == setting.default


def test_a_switch_can_be_turned_off_by_its_variable(tmp_path: Path) -> None:
    """1, true, yes and on; 0, false, no and off; what is empty says nothing."""
    path = tmp_path / "inferd.toml"
    path.write_text("[auth]\ninsecure_no_auth = true")
    for text, value in (("0", False), ("No", False), ("off", False), ("true", True), ("", True)):
        said = Sources(environment={"INFERD_INSECURE_NO_AUTH": text}, path=str(path))
        assert read(said).settings.insecure_no_auth is value
    with pytest.raises(Mistaken, match="INFERD_INSECURE_NO_AUTH must be true or false, not 'maybe'"):
        read(Sources(environment={"INFERD_INSECURE_NO_AUTH": "maybe"}))


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS.values() if setting.kind is FILE])
@pytest.mark.parametrize("empty", ["", "  "])
def test_a_file_without_a_name_is_a_mistake(tmp_path: Path, name: str, empty: str) -> None:
    """`--tokens "$UNSET"` must not take away the tokens that the file asks for, nor an empty text in the file be none.
    A variable that is empty says nothing."""
    path, setting = tmp_path / "inferd.toml", SETTINGS[name]
    sentence = "this is empty, and names no file; name one, or leave it out"
    path.write_text('[auth]\ntokens = "/a"\n')
    with pytest.raises(Mistaken) as caught:
        read(Sources(flags={name: empty}, path=str(path)))
    assert str(caught.value) == f"{setting.flag}: {sentence}"
    assert read(Sources(environment={setting.variable: empty}, path=str(path))).settings.tokens == "/a"
    path.write_text(f'\n[{setting.table}]\n{setting.key} = "{empty}"\n')
    with pytest.raises(Mistaken) as caught:
        read(Sources(path=str(path)))
    assert str(caught.value) == f"{path}:3: {setting.key}: {sentence}"


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"insecure_no_auth", "web"}))
def test_no_empty_flag_passes_for_none(name: str) -> None:
    """Whatever kind of setting it is: the sentence begins with the flag."""
    setting = SETTINGS[name]
    with pytest.raises(Mistaken, match=f"^{setting.flag}[ :]"):
        read(Sources(flags={name: ("",) if setting.repeatable else ""}))


def test_an_empty_address_of_the_gateway_is_none(tmp_path: Path) -> None:
    """`--web=` turns off the one in the file, which opens nothing to anybody."""
    path = tmp_path / "inferd.toml"
    path.write_text('[web]\nlisten = "127.0.0.1:9"\n')
    assert read(Sources(flags={"web": ""}, path=str(path))).settings.web is None


def test_a_list_in_a_variable_is_divided_by_blanks() -> None:
    """And a flag is repeated."""
    said = Sources(environment={"INFERD_DEVICE": "cuda:0 cuda:1", "INFERD_ALLOW_UID": " 5  6 "})
    assert read(said).settings.devices == ("cuda:0", "cuda:1") and read(said).settings.allow_uids == (5, 6)
    said = Sources(flags={"devices": ("cpu",), "allow_uids": ("7", "8")}, environment={"INFERD_DEVICE": "cuda"})
    assert read(said).settings.devices == ("cpu",) and read(said).settings.allow_uids == (7, 8)


def test_a_variable_that_is_misspelt_is_told() -> None:
    """It may be the one that keeps others out. Those of the client, and Kubernetes' for its services, are not meant."""
    for name, meant in (
        ("INFERD_TOKEN", "INFERD_TOKENS"),
        ("INFERD_TLS_CLIENT_CERT", "INFERD_TLS_CLIENT_CA"),
        ("INFERD_AUTH_TOKENS", "INFERD_TOKENS"),
        ("INFERD_TOKENS_FILE", "INFERD_TOKENS"),
        ("INFERD_THE_TOKENS_OF_ALL", "INFERD_TOKENS"),
        ("INFERD_AUTH_ALLOW_UIDS", "INFERD_ALLOW_UID"),
        ("INFERD_WEB_LISTEN", "INFERD_WEB"),
        ("INFERD_WEB_PORT", "INFERD_WEB"),
        ("INFERD_LIMITS_SLAB_MIB", "INFERD_SLAB_MIB"),
        ("INFERD_CONFIG_FILE", "INFERD_CONFIG"),
    ):
        with pytest.raises(Mistaken, match=f"^no setting has the variable {name}; did you mean {meant}[?]$"):
            read(Sources(environment={name: "x"}))
        read(Sources(environment={name: ""}))
    for name in ("URL", "TOKEN_FILE", "CA", "CERT", "KEY", "TIMEOUT_MS", "CONNECT_TIMEOUT_MS", "CONFIG", "EXECUTOR"):
        read(Sources(environment={f"INFERD_{name}": "x"}))
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_7433_TCP", "PORT_7433_TCP_ADDR"):
        read(Sources(environment={f"INFERD_{name}": "x"}))
        read(Sources(environment={f"INFERD_WEB_{name}": "tcp://10.0.0.7:7480" if name == "PORT" else "x"}))


def test_models_of_the_command_line_take_the_place_of_the_files(tmp_path: Path) -> None:
    """--set changes either."""
    path = tmp_path / "inferd.toml"
    path.write_text('[models.a]\ntarget = "virtual"\noptions.x = 1\n[models.b]\ntarget = "echo"\n')

    def models(**more: Any) -> tuple[ModelConfig, ...]:
        return read(Sources(path=str(path), **more)).settings.models

    assert [model.name for model in models()] == ["a", "b"]
    assert [model.name for model in models(models=("ner",))] == ["ner"]
    assert models(options=("a.x=2", 'a.y="z"'))[0].options == {"x": 2, "y": "z"}
    with pytest.raises(Mistaken, match="--set x=1: several models are served"):
        models(options=("x=1",))


def test_mistakes_of_every_source_are_told_together(tmp_path: Path) -> None:
    """The file's by their lines, then what was said elsewhere; with one that is wrong nothing is compared."""
    path = tmp_path / "inferd.toml"
    path.write_text("[limits]\nslab_mib = 2\nmax_in_flight = 0\n")
    with pytest.raises(Mistaken) as caught:
        read(
            Sources(
                flags={"arena_mib": "much", "devices": ("cpu", "tpu")},
                environment={"INFERD_LOG_LEVEL": "loud"},
                path=str(path),
                models=("nre",),
                options=("x",),
            )
        )
    said = str(caught.value).replace(str(path), "F").split("\n")
    assert [text.split(" ")[0] for text in said] == [
        *("F:2:", "F:3:"),
        *("--device:", "--arena-mib", "INFERD_LOG_LEVEL:", "'nre'"),
    ]


def test_a_better_value_does_not_hide_a_mistake(tmp_path: Path) -> None:
    """What is wrong in the file is told, also where a flag goes before it."""
    path = tmp_path / "inferd.toml"
    path.write_text("[limits]\nslab_mib = 2\n")
    with pytest.raises(Mistaken, match=":2: slab_mib must be"):
        read(Sources(flags={"slab_mib": "512"}, path=str(path)))


def test_what_looks_into_files_is_asked_and_placed(tmp_path: Path) -> None:
    """What serve finds in the files that settings name gets the line of the setting."""
    from inferd.config import Contradiction

    path = tmp_path / "inferd.toml"
    path.write_text('[auth]\ntokens = "t"\n')
    with pytest.raises(Mistaken) as caught:
        read(Sources(path=str(path)), lambda settings: [Contradiction(("tokens",), f"{settings.tokens} is bad")])
    assert str(caught.value) == f"{path}:2: {tmp_path}/t is bad"


def test_what_contradicts_is_placed_where_it_was_said() -> None:
    """A flag or a variable, where no file says it."""
    said = Sources(flags={"listen": ("inferd://0.0.0.0:7999",)}, environment={"INFERD_SLAB_MIB": "128"})
    with pytest.raises(Mistaken) as caught:
        read(said)
    open_to_all, too_large = str(caught.value).split("\n")
    assert open_to_all.startswith("--listen: inferd://0.0.0.0:7999 can be reached from other machines")
    assert too_large.startswith("INFERD_SLAB_MIB: payload_mib = 64 is over a quarter of slab_mib = 128")


def test_settings_made_by_hand_are_checked_too() -> None:
    """All that is wrong, a line each."""
    with pytest.raises(ConfigError) as caught:
        Settings(devices=("tpu",), slab_mib=8, models=(ModelConfig("a", "x:y"), ModelConfig("a", "x:y"))).check()
    assert len(str(caught.value).split("\n")) == 3
    Settings().check()


def test_what_needs_a_restart() -> None:
    """Sockets, memory and devices; the reload goes by the definitions."""
    fixed = {"listen", "devices", "slab_mib", "arena_mib", "web"}
    assert {name for name, setting in SETTINGS.items() if not setting.reloads} == fixed == set(NEEDS_RESTART)


def test_definitions_hold_their_own_defaults() -> None:
    """Each default is a value that the setting takes, and each name, flag, variable and place is there once."""
    for setting in SETTINGS.values():
        assert setting.help.endswith((".", "?"))
        if setting.kind is WHOLE and not setting.repeatable:
            assert setting.of_toml(setting.key, setting.default) == setting.default
        assert setting.least is not None or setting.kind.types not in ((int,), (int, float))
    for attribute in ("flag", "variable", "place"):
        values = [getattr(setting, attribute) for setting in SETTINGS.values()]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("99999999999999999999999", "numbers of up to 64 bits"),
        ("9" * 5000, "numbers of up to 64 bits"),
        ("[[1, 18446744073709551616]]", "numbers of up to 64 bits"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 lists and tables"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 lists and tables"),
        ("[" * 5000 + "]" * 5000, "lists and tables at most 64 deep"),
        ("NaN", "is nan"),
        ('{"a": [NaN]}', "is nan"),
    ],
)
def test_an_option_of_the_command_line_is_held_to_the_files_rule(tmp_path: Path, value: str, sentence: str) -> None:
    """What workers cannot be told, or differs from itself at each reload, is a mistake in both, and a short one."""
    with pytest.raises(Mistaken, match=sentence) as caught:
        read(Sources(models=("echo",), options=(f"s={value}",)))
    assert len(str(caught.value)) < 300
    if "{" not in value:
        path = tmp_path / "inferd.toml"
        path.write_text(f'[models.e]\ntarget = "echo"\noptions.s = {value.replace("NaN", "nan")}\n')
        with pytest.raises(ConfigError, match=r"inferd\.toml"):
            read(Sources(path=str(path)))


@pytest.mark.parametrize("value", ["18446744073709551615", "-1", "[" * 64 + "]" * 64, "null", "1e999", "[nan", "text"])
def test_other_options_are_taken(value: str) -> None:
    """Up to the limits, and what is no JSON as text."""
    assert read(Sources(models=("echo",), options=(f"s={value}",))).settings.models[0].options.keys() == {"s"}


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("https://demo.example:443", "https://demo.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://demo.example:443", "http://demo.example:443"),
        ("https://demo.example:08443", "https://demo.example:8443"),
        ("https://demo.example", "https://demo.example"),
    ],
)
def test_an_origin_is_what_a_browser_sends(said: str, sent: str) -> None:
    """Which leaves out the scheme's own port: `https://demo.example:443` would let in nobody."""
    assert read(Sources(flags={"web_origin": (said,)})).settings.web_origin == (sent,)


@pytest.mark.parametrize("port", ["0", "65536"])
def test_an_origin_has_a_port_that_there_is(port: str) -> None:
    """No browser sends any other."""
    with pytest.raises(Mistaken, match="is no origin"):
        read(Sources(flags={"web_origin": (f"https://demo.example:{port}",)}))
