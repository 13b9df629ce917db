"""docs/CONFIGURATION.md says of each setting what its definition says."""

from __future__ import annotations

from pathlib import Path

from inferd.config import SETTINGS, Setting

DOCUMENT = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"


def row(setting: Setting) -> str:
    default = "" if setting.default in ("", (), None) else f"`{setting.shown(setting.default)}`"
    names = f"`{setting.flag}`<br>`{setting.variable}`"
    values = "" if setting.least is None or setting.most is None else f" {setting.least:,} to {setting.most:,}."
    reload = "reload" if setting.reloads else "restart"
    return f"| `{setting.place}` | {names} | {default} | {reload} | {setting.help}{values} |"


def test_every_setting_has_its_row() -> None:
    """In the order of the definitions; this prints the table as it should be."""
    table = "\n".join(row(setting) for setting in SETTINGS.values())
    assert table in DOCUMENT.read_text(), f"the table of settings in {DOCUMENT.name} should be:\n{table}"
