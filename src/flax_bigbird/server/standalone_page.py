"""Builds an HTML file that shows attention without a server, from the modules of the page."""

import base64
import dataclasses
import hashlib
import html
import re
from pathlib import Path

from flax_bigbird.data.json_output import to_json
from flax_bigbird.inference.document_attention import DocumentAttention

PAGE = Path(__file__).parent / "page"
MODULES = ("dom", "offsets", "words", "block_map", "block_canvas", "attention_view", "standalone")
"""The modules of the file, each after those that it imports."""

IMPORT = re.compile(r"^import \{[^}]*\} from \"[^\"]*\";\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)
TEMPLATE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta http-equiv="Content-Security-Policy" content="{policy}">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>{title}</title>
    <style>{style}</style>
  </head>
  <body>
    <header><h1>{title}</h1></header>
    <main>
      <section class="wide" aria-label="Attention">
        <div id="attention-view"></div>
        <p id="error" role="alert" hidden></p>
      </section>
    </main>
    <script type="application/json" id="data">{data}</script>
    <script type="module">{script}</script>
  </body>
</html>
"""


def attention_page(attention: DocumentAttention, title: str) -> str:
    """Returns an HTML file, which opens from a disk and requests nothing.

    Args:
      attention: What to show.
      title: The title, as plain text.
    """
    script, style = _script(), (PAGE / "style.css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # In a JSON text, "<" occurs in strings only; escaped, it cannot end the element.
    data = to_json(dataclasses.asdict(attention)).replace("<", "\\u003c")
    return TEMPLATE.format(
        policy=policy, title=html.escape(title), style=style, data=data, script=script
    )


def _script() -> str:
    """Returns the modules as one, without their imports and exports."""
    parts = []
    for name in MODULES:
        source = (PAGE / f"{name}.js").read_text(encoding="utf-8")
        parts.append(EXPORT.sub("", IMPORT.sub("", source)))
    return "\n".join(parts)


def _hash(text: str) -> str:
    """Returns the hash by which a policy allows an inline element."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
