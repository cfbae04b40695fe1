"""Configuration of the documentation site: ``sphinx-build -W --keep-going -n docs docs/_build/html``.

The API pages are made from the docstrings of the installed package.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import ase_nnxc

project = "ase_nnxc"
author = copyright = "ase_nnxc developers"
release = version = ase_nnxc.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ase_nnxc {release}"

myst_heading_anchors = 3  # links to sections work as on GitHub

smartquotes = False  # "PBE" can be copied
default_role = "code"  # of docstrings: `name`
autodoc_typehints = "none"  # the sections of the docstrings have the types, with shapes and units
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False

REPOSITORY = Path(__file__).resolve().parents[1]
# Pages that begin with a file of the repository.
INCLUDED = {"index": "README.md", "changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}


def include_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the included file before the text of a page, and let links that work in the repository work on the site."""
    text = source[0]
    if docname in INCLUDED:
        file = REPOSITORY / INCLUDED[docname]
        app.env.note_dependency(str(file))
        from_root = re.sub(r"\]\((?!https?:|#)", "](../", file.read_text(encoding="utf-8"))
        text = from_root.replace("](../docs/", "](") + "\n" + text
    for page, name in INCLUDED.items():
        text = text.replace(f"](../{name}", f"]({page}.md")
    source[0] = text


def escape_signs(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep |x| an absolute value and name@version a name: reStructuredText sees a substitution and a mail address."""
    for i, line in enumerate(lines):
        parts = re.split("(`[^`]*`)", line)  # code, which stays as it is, at odd positions
        parts[::2] = [re.sub("[|@]", r"\\\g<0>", text) for text in parts[::2]]
        lines[i] = "".join(parts)


def setup(app: Sphinx) -> None:
    """Connect the functions above to what Sphinx reads."""
    app.connect("source-read", include_files)
    app.connect("autodoc-process-docstring", escape_signs)
