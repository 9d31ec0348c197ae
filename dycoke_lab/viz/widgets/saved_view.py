"""Keep a view of a panel as one HTML file that needs nothing else: no kernel, no network."""

from __future__ import annotations

import base64
import html
from itertools import count
from pathlib import Path

from dycoke_lab.results.files import replace_text


def save_view(folder: Path, name: str, title: str, picture: bytes, codes: list[str], words: str = "") -> Path:
    """Write NAME.html, or NAME-2.html, ... if that is there already, and return its path.

    picture: a PNG file. codes: the setting, and what makes the view again. words: HTML below the picture.
    Raises OSError if the folder cannot be written to.
    """
    paths = (folder / f"{name}{'' if number == 1 else f'-{number}'}.html" for number in count(1))
    path = next(path for path in paths if not path.exists())
    source = base64.b64encode(picture).decode()
    title = html.escape(title)
    lines = "\n".join(f"<pre><code>{html.escape(code)}</code></pre>" for code in codes)
    replace_text(
        path,
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 17px/1.5 sans-serif; margin: 1.5em auto; max-width: 1250px; padding: 0 1em; }}
img {{ width: 100%; }} pre {{ background: #f2f2f2; padding: 0.8em; white-space: pre-wrap; }}</style></head>
<body><h1>{title}</h1>
<img alt="{title}" src="data:image/png;base64,{source}">
{words}
<p>The setting, as code:</p>
{lines}
</body></html>
""",
    )
    return path
