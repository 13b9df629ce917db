"""Certificates for the tests of TLS: an authority that counts, and one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme


class Papers:
    """PEM files: `ca` signs for the server (`cert`, `key`) and for a client (`ada`); `foreign_ca` for `eve`."""

    def __init__(self, folder: Path) -> None:
        ca, foreign = trustme.CA(), trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.foreign_ca = str(folder / "foreign.pem")
        ca.cert_pem.write_to_path(self.ca)
        foreign.cert_pem.write_to_path(self.foreign_ca)
        self.authority = ca
        self._folder = folder
        self.cert, self.key = self.issue("server", ca, "127.0.0.1", "localhost")
        self.other_cert, self.other_key = self.issue("other", ca, "127.0.0.1")
        self.ada = self.issue("ada", ca, "ada.example", common_name="ada")
        self.nameless = self.issue("nameless", ca, "robot.example")
        self.eve = self.issue("eve", foreign, "eve.example", common_name="ada")

    def issue(self, name: str, ca: trustme.CA, *identities: str, **more: object) -> tuple[str, str]:
        """A certificate and its private key, as paths."""
        made = ca.issue_cert(*identities, **more)  # type: ignore[arg-type]
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        key.chmod(0o600)
        return str(cert), str(key)


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """One set for all tests: making keys takes time."""
    return Papers(tmp_path_factory.mktemp("papers"))
