"""Builds the wheel, installs it into a clean environment, and tries what a user would try first: `make wheel`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXPECTED = (
    "inferd/models/ner/weights.safetensors",
    "inferd/py.typed",
    "inferd_client/py.typed",
    "inferd/systemd/system/inferd.service.d/cuda.conf",
    "inferd/systemd/user/inferd.service",
    "inferd/wire/peer.py",
    "inferd_client/__init__.py",
)
# The base install is the client and the command line; torch is an extra.
TRY = """
import sys
from inferd import Client
from inferd_client.testing import FakeServer
with FakeServer({"echo": lambda inputs: inputs}) as server, Client(server.url) as client:
    assert client.infer("echo", {"text": "hello"}) == {"text": "hello"}
assert "torch" not in sys.modules
"""


def run(*command: str | Path) -> str:
    """Runs a command to its end; its output."""
    done = subprocess.run([str(part) for part in command], check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout


def main() -> None:
    """Fails with the first thing that is not as it should be."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # files that are no more would be packed again
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", where, ROOT)
        [wheel] = where.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        missing = [name for name in EXPECTED if name not in names]
        strangers = [name for name in names if not name.startswith(("inferd/", "inferd_client/", "inferd-"))]
        assert not missing, f"the wheel lacks {missing}"
        assert not strangers, f"the wheel has {strangers}"
        venv.create(where / "venv", with_pip=True)
        python = where / "venv/bin/python"
        run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        assert run(where / "venv/bin/inferd", "--version").startswith("inferd, version ")
        run(python, "-c", TRY)
        refused = subprocess.run([where / "venv/bin/inferd", "serve"], capture_output=True, text=True, check=False)
        assert refused.returncode == 78 and "pip install" in refused.stderr, refused.stderr
        units = run(where / "venv/bin/inferd", "systemd", "print", "--with", "cuda")
        assert f"ExecStart={python} -P -m inferd serve" in units and "DeviceAllow=char-nvidia*" in units, units
        doctor = subprocess.run([where / "venv/bin/inferd", "doctor"], capture_output=True, text=True, check=False)
        assert doctor.returncode == 1 and "not installed; in a checkout" in doctor.stdout, doctor
        print(f"{wheel.name}: {wheel.stat().st_size // 1024} KiB, installed and tried in a clean environment")


if __name__ == "__main__":
    main()
