"""Pins: what does not have the digest that the configuration says is not run, and there is nothing to fall back to."""

from __future__ import annotations

import os
import py_compile
import traceback
from dataclasses import replace
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from inferd.config import ModelConfig
from inferd.errors import ConfigError, ModelLoadError
from inferd.work.loader import definition, load_model
from tests.cli.test_cli_serve import refusal

NET = """\
from pathlib import Path
Path("{marker}").write_text("{word}")
class Net:
    def forward(self, batch):
        return batch
"""


def write(folder: Path, word: str = "good") -> tuple[str, str]:
    """A model's file that leaves `word` in the file `marker` when it is run, and its digest."""
    path = folder / "net.py"
    path.write_text(NET.format(marker=folder / "marker", word=word))
    return str(path), sha256(path.read_bytes()).hexdigest()


def test_the_right_file_is_run(tmp_path: Path) -> None:
    """With its digest as without one."""
    path, digest = write(tmp_path)
    load_model(ModelConfig("net", f"{path}:Net", sha256=digest))
    assert (tmp_path / "marker").read_text() == "good"


def test_another_file_is_not_run(tmp_path: Path) -> None:
    """The sentence has the file, both digests, and what to do; not a line of the file was run."""
    path, digest = write(tmp_path)
    _, other = write(tmp_path, "evil")
    with pytest.raises(ModelLoadError) as caught:
        load_model(ModelConfig("net", f"{path}:Net", sha256=digest))
    assert all(words in str(caught.value) for words in ("'net'", path, digest, other, "nothing of it was run"))
    assert not (tmp_path / "marker").exists()


def test_byte_code_beside_the_file_is_not_run(tmp_path: Path) -> None:
    """A __pycache__ that claims to be of the pinned file, its size and time right, is not looked at."""
    path, evil = write(tmp_path, "evil")
    compiled = py_compile.compile(path)
    times = os.stat(path)
    _, digest = write(tmp_path, "good")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert compiled is not None and evil != digest
    loader = SourceFileLoader("net", path)
    loader.exec_module(module_from_spec(spec_from_loader("net", loader)))
    assert (tmp_path / "marker").read_text() == "evil", "this is how Python is fooled"
    load_model(ModelConfig("net", f"{path}:Net", sha256=digest))
    assert (tmp_path / "marker").read_text() == "good"


def test_the_pin_is_of_what_is_run(tmp_path: Path) -> None:
    """Not of the file, where a worker has been given what was in it: neither the right file nor a wrong one matters."""
    path, right = write(tmp_path)
    good = Path(path).read_bytes()
    write(tmp_path, "evil")
    load_model(ModelConfig("net", f"{path}:Net", sha256=right, source=good))
    assert (tmp_path / "marker").read_text() == "good"
    evil = Path(path).read_bytes()
    write(tmp_path)
    (tmp_path / "marker").unlink()
    with pytest.raises(ModelLoadError, match=sha256(evil).hexdigest()):
        load_model(ModelConfig("net", f"{path}:Net", sha256=right, source=evil))
    assert not (tmp_path / "marker").exists()


def test_a_traceback_shows_the_lines_that_run(tmp_path: Path) -> None:
    """Also when the file has other lines by now, or is gone."""
    path = tmp_path / "traced.py"
    path.write_text("# other lines\n" * 9)
    source = b"class Net:\n    def forward(self, batch):\n        return batch['missing']\n"
    served = load_model(ModelConfig("net", f"{path}:Net", source=source))
    for change in (lambda: None, path.unlink):
        change()
        with pytest.raises(KeyError) as caught:
            served.forward({})
        assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "return batch['missing']"
        assert definition(f"{path}:Net") == f"{path}:1"


def test_the_weights_of_a_folder_are_looked_at_first(tmp_path: Path) -> None:
    """model.safetensors is what the pin is of; nothing else of the folder has been opened when it is refused."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = ModelConfig.parse(f"hf:{tmp_path}")
    right = sha256(b"weights").hexdigest()
    for digest, words in (("0" * 64, right), (right, "config.json")):
        with pytest.raises(ModelLoadError, match=words):
            load_model(replace(model, sha256=digest))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"pinned to the sha256 of .*model\.safetensors.*No such file"):
        load_model(replace(model, sha256=right))


def test_what_has_no_file_cannot_be_pinned() -> None:
    """A pin that would not be looked at is refused, not passed over."""
    with pytest.raises(ModelLoadError, match="sha256 pins file"):
        load_model(ModelConfig("echo", "inferd.models.echo:Echo", sha256="0" * 64))


@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.pth", "model.bin", "net.ckpt", "net.pkl", "net.pt:Net"])
def test_files_that_can_run_code_are_no_models(name: str) -> None:
    """There is no loader for them; the sentence says what to do instead."""
    with pytest.raises(ConfigError, match=r"can run code .* Save its weights as safetensors .* file\.py:Name"):
        ModelConfig.parse(f"m={name}")


@pytest.mark.parametrize(
    ("target", "words"),
    [("net.safetensors", "has weights and no code"), ("net.py", "write net.py:Name"), ("eco", "did you mean 'echo'")],
)
def test_what_is_nearly_a_target_says_what_is_missing(target: str, words: str) -> None:
    """Weights alone, a file alone, a slip of the pen."""
    with pytest.raises(ConfigError, match=words):
        ModelConfig.parse(target)


def test_a_daemon_does_not_start_with_another_file(tmp_path: Path) -> None:
    """The pin of inferd.toml reaches the worker, and the worker's sentence the operator; exit 78."""
    path, digest = write(tmp_path, "evil")
    pinned = digest.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    (tmp_path / "inferd.toml").write_text(f'[models.net]\ntarget = "net.py:Net"\nsha256 = "{pinned}"\n')
    said = refusal(tmp_path, "--config", "inferd.toml").splitlines()[-1]
    assert said.startswith("inferd: ") and path in said and digest in said and pinned in said
    assert not (tmp_path / "marker").exists()
