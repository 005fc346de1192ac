"""Pages in headless Chromium, by its command line: what a script reads from a page, its console, a screenshot."""

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The page lies in a frame, because a window has a least width. The frame is of the same origin, so it may be read.
FRAME = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe><pre id="read"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg, img")].map(e => e.getBoundingClientRect());
  document.querySelector("#read").textContent = JSON.stringify({{
    scroll: root.scrollWidth, width: root.clientWidth, height: root.scrollHeight,
    figures: boxes.length, empty: boxes.filter(b => b.width < 1 || b.height < 1).length,
    broken: [...page.images].filter(e => !e.complete || !e.naturalWidth).length,
    background: getComputedStyle(page.body).backgroundColor,
    overlaps: [...page.querySelectorAll("svg")].flatMap(overlaps),
  }});
}});
function overlaps(svg) {{
  const slanted = t => /-60/.test(t.getAttribute("transform"));  // the box of a slanted text is wider than the text
  const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim() && !slanted(t));
  const boxes = texts.map(t => t.getBoundingClientRect());
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {{
    const [a, b] = [boxes[i], boxes[j]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 1) found.push(texts[i].textContent + " | " + texts[j].textContent);
  }}
  return found;
}}
</script>"""


def visit(page: Path, folder: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> dict:
    """Opens a page and reads it.

    A screenshot ``PAGE_WIDTH_light.png`` or ``..._dark.png`` is left in ``folder``, or in the folder that the
    environment's ``CSC_NETS_SCREENSHOTS`` names.

    Returns:
        Widths of the page and of its frame, numbers of figures, of empty and of broken ones, the background, pairs of
        labels in a chart that lie over each other, and the lines of the console.
    """
    shots = Path(os.environ.get("CSC_NETS_SCREENSHOTS", folder))
    shots.mkdir(parents=True, exist_ok=True)
    frame = folder / f"{page.stem}_frame.html"
    frame.write_text(FRAME.format(width=width, height=height, page=escape(page.read_text(), quote=True)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={max(width, 600)},{height}",
    ]
    options += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    shot = shots / f"{page.stem}_{width}_{'dark' if dark else 'light'}.png"
    read = []
    for task in ("--dump-dom", f"--screenshot={shot}"):
        command = [str(BROWSER), *options, task, frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        read.append(done)
    found = re.search(r'<pre id="read">(.+?)</pre>', read[0].stdout, re.DOTALL)
    assert found, read[0].stderr
    console = [line for line in read[0].stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(unescape(found.group(1))), "console": console, "shot": shot}
