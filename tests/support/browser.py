# SPDX-License-Identifier: GPL-3.0-or-later
"""Chromium without a screen: what a page looks like once it is laid out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

# What a reader would complain about: texts that leave their drawing, drawings that lie upon each other, a page that is wider
# than the window, anything that would have to be fetched.
LOOK = """
<script>
addEventListener("load", () => {
  const outside = [];
  const drawings = [...document.querySelectorAll("svg")];
  const shown = drawings.filter((svg) => !svg.closest("details:not([open])"));
  for (const svg of shown) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        outside.push(text.textContent);
    }
  }
  const told = document.createElement("pre");
  told.id = "looked";
  told.textContent = JSON.stringify({
    outside,
    drawings: shown.length,
    all: drawings.length,
    rows: document.querySelectorAll("tbody:first-of-type")[0].rows.length,
    open: document.querySelectorAll("details[open]").length,
    wider: document.documentElement.scrollWidth - innerWidth,
    height: document.documentElement.scrollHeight,
    fetched: performance.getEntriesByType("resource").length,
    smallest: Math.min(...shown.map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)),
  });
  document.body.append(told);
});
</script>
"""


def looked_at(page: Path, width: int = 1400, height: int = 1000) -> t.Dict[str, t.Any]:
    """What the browser says of the page; a screenshot lies beside it."""
    assert CHROMIUM
    probe = page.with_name(f"{page.stem}.probe.html")
    probe.write_text(page.read_text("utf-8").replace("</body>", f"{LOOK}</body>"), "utf-8")
    common = [
        CHROMIUM,
        *QUIET,
        f"--user-data-dir={page.parent / 'profile'}",
        f"--window-size={width},{height}",
    ]
    dump = subprocess.run(
        [*common, "--virtual-time-budget=5000", "--dump-dom", f"file://{probe}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="looked">(.*?)</pre>', dump.stdout, re.DOTALL)
    assert found, dump.stderr[-500:]
    picture = page.with_suffix(".png")
    subprocess.run(
        [*common, f"--screenshot={picture}", f"file://{page}"], capture_output=True, timeout=120, check=True
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    return t.cast(t.Dict[str, t.Any], json.loads(html.unescape(found[1])))
