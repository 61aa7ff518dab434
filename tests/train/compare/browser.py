"""A headless Chromium that opens a page, acts in it and tells what it shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
PROBE = Path(__file__).with_name("probe.js")
browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")


def probe(
    written: Path, fragment: str = "", act: str = "", options: tuple[str, ...] = (), later: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a browser shows of the page, after `act` (JavaScript) ran in it, and then with other fragments (`later`).

    `panels` holds for each metric {lines, x, y, note, empty}: the lines drawn, the axes' ranges, the remarks shown.
    """
    script = PROBE.read_text().replace("__ACT__", act).replace("__FRAGMENTS__", json.dumps(later))
    path = written.with_name("probe.html")
    path.write_text(written.read_text().replace("</body>", f"<script>{script}</script></body>"))
    text, said = browse(path, fragment, *options)
    assert "CONSOLE" not in said, said
    result: dict[str, Any] = json.loads(re.search(r'id="probe">(.*?)</script>', text, re.S)[1])
    return result | {"dom": text}


def browse(path: Path, fragment: str, *options: str) -> tuple[str, str]:
    """The page's elements after its script ran, and what the browser said."""
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    words += [f"--user-data-dir={path.parent / 'browser'}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*words, f"{path.as_uri()}{fragment}"], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr
