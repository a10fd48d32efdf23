"""A page that shows moving people and hypotheses in a browser: one file, which loads nothing from anywhere.

The program in it is ``assets/viewer.js``: this project's ``tools/viewer`` and three.js, bundled by ``make viewer``.
"""

import base64
import hashlib
import html
import json
from importlib.resources import files
from pathlib import Path

from posecore.export.files import write_text
from posecore.export.html_scene import Scene, scene_content

__all__ = ["write_html"]

# The policy lets a browser run this one script and nothing else, and open no connection. Style sheets that the script
# makes itself are not asked about.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="humandiff">
<link rel="icon" href="data:,">
<title>{title}</title>
</head>
<body>
<noscript>This page needs JavaScript to show its 3D content.</noscript>
<script type="application/json" id="scene">{scene}</script>
<script>{script}</script>
</body>
</html>
"""
_POLICY = (
    "default-src 'none'; script-src 'sha256-{digest}'; img-src data:; style-src 'none'; base-uri 'none'; "
    "form-action 'none'"
)


def write_html(path: Path | str, scene: Scene) -> None:
    """Writes a page that any current browser opens from disk and offline.

    It plays the frames, turns and zooms, and shows the chosen hypothesis, any other or all over one another, from the
    front, the side, the top or where the camera was, there in front of the photograph if the scene has it. Bodies are
    stored as one rest body per person and shape, with rotations per hypothesis and frame; SMPL's pose blend shapes are
    kept to 2 mm, or as near as 32 morph targets come. The program is 0.6 MB of every page.

    Args:
        path: The file.
        scene: What it shows. Its texts may hold anything: they are shown and never read as markup.

    Raises:
        OSError: If the file cannot be written.
    """
    script = (files("posecore.export") / "assets" / "viewer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # In a script element "<" alone can end it or open a comment; JSON has it in strings only.
    content = json.dumps(scene_content(scene), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    policy = _POLICY.format(digest=digest)
    page = _PAGE.format(policy=policy, title=html.escape(scene.title), scene=content, script=script)
    write_text(path, page)
