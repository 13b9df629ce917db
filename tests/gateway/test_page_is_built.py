"""The page's script is made from clients/js/: checked by a hash, so that Node is not needed for it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "clients/js"
BUILT = ROOT / "inferd/gateway/page"


def test_the_script_was_made_from_the_sources_as_they_are() -> None:
    # The same order and the same bytes as in clients/js/page/build.mjs.
    paths = sorted(
        path.relative_to(SOURCES).as_posix() for folder in ("page", "src") for path in (SOURCES / folder).glob("*.ts")
    )
    digest = hashlib.sha256(b"".join((SOURCES / path).read_bytes() for path in paths)).hexdigest()
    first_line = (BUILT / "app.js").read_text(encoding="utf-8").partition("\n")[0]
    assert first_line.startswith("// ")
    assert first_line.endswith(digest), "the page is not built from these sources: run `npm run page` in clients/js"


def test_nothing_in_the_page_names_another_host() -> None:
    for path in BUILT.iterdir():
        addresses = re.findall(r"(?:https?|wss?)://[a-z0-9-]+\.[a-z0-9.-]+", path.read_text(encoding="utf-8"))
        # A name for SVG, which nobody asks for anything.
        assert set(addresses) <= {"http://www.w3.org"}, path.name


def test_the_page_has_no_script_or_style_of_its_own_in_its_html() -> None:
    html = (BUILT / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert "<style" not in html
    assert re.findall(r"<script[^>]*>[^<]*</script>", html) == ['<script type="module" src="/page/app.js"></script>']
    assert not re.search(r"\son\w+=", html)
