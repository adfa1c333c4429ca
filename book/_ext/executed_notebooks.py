"""Show the executed copies in place of the stripped source notebooks.

The table of contents names ``notebooks/<name>``, so page names, Colab links and edit links all point at the
reviewed source; only the text that Sphinx parses comes from ``<executed_dir>/notebooks/<name>.ipynb``. A copy
that is missing, stale or stopped at an error is a warning, and so fails a build with ``-W``.

Notebooks under ``book/runs/`` are printed long runs, committed with their outputs and shown as they are.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # autodoc imports the package from the checkout
    sys.path.insert(0, str(ROOT))
LOG = logging.getLogger(__name__)
RUNS = "book/runs/"
CHAPTER = re.compile(r"\]\((\d\d_\w+\.ipynb)\)")  # a link from one chapter to another
INJECTED = "injected-parameters"  # papermill's tag
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d+%\|.*\[\d\d:\d\d")  # tqdm's
# a run repeats its chapter's text; a label may stand only once in the book, so the chapter keeps it
LABELS = re.compile(
    r"^\([^)\s]+\)=[ \t]*\n"  # (label)= above a heading
    r"|(?<=\$\$)[ \t]*\([\w:.-]+\)[ \t]*$"  # $$ ... $$ (label)
    r"|^:(?:label|name):.*\n",  # the option of a directive
    re.MULTILINE,
)


def sources(notebook: dict) -> list[str]:
    """The cells' texts without what papermill added."""
    added = {INJECTED, "papermill-error-cell-tag"}
    cells = [c for c in notebook["cells"] if not added & set(c["metadata"].get("tags", []))]
    return ["".join(c["source"]).strip() for c in cells]


def stopped(notebook: dict) -> bool:
    """Whether a cell of an executed notebook ended in an error."""
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    failed = notebook["metadata"].get("papermill", {}).get("exception")
    return bool(failed) or any(out["output_type"] == "error" for out in outputs)


def drop_labels(notebook: dict) -> None:
    """Take the cross-reference labels out of a printed run and point its links at the chapters, in place."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = LABELS.sub("", "".join(cell["source"]))
            cell["source"] = CHAPTER.sub(r"](../../notebooks/\1)", text)
        for kind in ("figure", "table"):
            cell["metadata"].get("mystnb", {}).get(kind, {}).pop("name", None)


def drop_bars(notebook: dict) -> None:
    """Take finished progress bars out, in place: they are hidden widgets that would leave blank lines."""
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [out for out in cell["outputs"] if not BAR.search(_plain(out))]


def _plain(output: dict) -> str:
    """What a widget says of itself in plain text; empty for any other output."""
    data = output.get("data", {})
    return "".join(data.get("text/plain", "")) if WIDGET in data else ""


def fold_injected(notebook: dict) -> None:
    """Fold the parameters that papermill injected behind a button, in place."""
    for cell in notebook["cells"]:
        if INJECTED in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("hide-input")
            cell["metadata"]["mystnb"] = {"code_prompt_show": "Show the parameters this page was made with"}


def source_read(app, docname: str, source: list[str]) -> None:
    """Replace a chapter's text by that of its executed copy (Sphinx event)."""
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    if docname.startswith(RUNS):
        notebook = json.loads(source[0])
        drop_labels(notebook)
    else:
        copy = Path(app.srcdir) / app.config.executed_dir / f"{docname}.ipynb"
        app.env.note_dependency(str(copy))
        if not copy.is_file():
            LOG.warning("no executed copy at %s: run python -m book", copy, location=docname)
            return
        notebook = json.loads(copy.read_text(encoding="utf-8"))
        if sources(json.loads(source[0])) != sources(notebook):
            LOG.warning("the executed copy %s is stale: run python -m book", copy, location=docname)
        fold_injected(notebook)
    drop_bars(notebook)
    if stopped(notebook):
        LOG.warning("the executed notebook stopped at an error", location=docname)
    source[0] = json.dumps(notebook)


def escape_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """Let docstrings write ``|det J|``, which reStructuredText takes for a substitution (Sphinx event)."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # literals are every second part
        lines[number] = "``".join(s if i % 2 else s.replace("|", r"\|") for i, s in enumerate(parts))


def drop_thebe(app) -> None:
    """Take out sphinx-thebe 0.3.1: unused here, and it declares its constants twice on every page."""
    for listener in list(app.events.listeners.get("env-before-read-docs", [])):
        handler = listener.handler
        if handler.__module__ == "sphinx_thebe" and handler.__name__ == "init_thebe_core":
            app.disconnect(listener.id)


def setup(app):
    """Register with Sphinx."""
    app.add_config_value("executed_dir", "_build/executed", "env")
    app.connect("source-read", source_read)
    app.connect("builder-inited", drop_thebe)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
