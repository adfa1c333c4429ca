"""Bring the sources in order: ``python -m book tidy``.

Chapters are stripped of outputs and of papermill's and the editor's notes. Cells tagged ``keep_output`` get
the text of the last execution, which nbval compares. The install cell and all addresses of the repository are
written anew from ``_config.yml``, the one place where the address stands.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import yaml

from book._ext.executed_notebooks import INJECTED, WIDGET, drop_bars, sources
from book.build import EXECUTED

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
CELL_METADATA = {"tags", "mystnb"}  # what a source cell may say about itself
RUN_NOISE = ("papermill", "execution", "ExecuteTime")  # dates and paths of the machine that ran it

INSTALL = """\
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mssf_lite") is None:
    above = [folder for folder in Path.cwd().parents if (folder / "mssf_lite" / "__init__.py").exists()]
    if above:  # in a checkout, below its root
        sys.path.insert(0, str(above[0]))
    else:  # on Colab: the package and what is missing there; torch stays as it is
        %pip install --quiet git+https://github.com/{slug}"""

SLUG = r"[\w-]+/[\w-]+(?:\.[\w-]+)*"
ADDRESS = re.compile(
    r"(colab\.research\.google\.com/github/|git\+https://github\.com/|git clone https://github\.com/"
    rf"|repository-code: https://github\.com/|Repository = \"https://github\.com/)({SLUG})"
)


def repository(root: Path) -> tuple[str, str]:
    """``owner/name`` and branch, from ``_config.yml``."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return config["url"].removeprefix("https://github.com/").strip("/"), config["branch"]


def colab_link(root: Path, name: str) -> str:
    """The line by which a chapter's first cell leads to Colab."""
    slug, branch = repository(root)
    return f"[Open in Colab](https://colab.research.google.com/github/{slug}/blob/{branch}/notebooks/{name})"


def with_addresses(text: str, slug: str) -> str:
    """``text`` with every address of this repository (see ``ADDRESS``) rewritten to ``slug``."""
    return ADDRESS.sub(lambda found: found[1] + slug, text)


def kept(outputs: list) -> list:
    """What nbval can compare of a cell's outputs: printed text and text results."""
    text = [out for out in outputs if out.output_type == "stream" and out.name == "stdout"]
    for out in outputs:
        if out.output_type == "execute_result":
            data = {"text/plain": out.data["text/plain"]}
            text.append(nbformat.v4.new_output("execute_result", data, execution_count=1))
    return text


def strip(chapter, executed=None) -> None:
    """Strip a chapter in place; cells tagged ``keep_output`` take their text from ``executed`` if given."""
    chapter.cells = [cell for cell in chapter.cells if INJECTED not in cell.metadata.get("tags", [])]
    ran = {cell.id: cell for cell in executed.cells} if executed else {}
    for cell in chapter.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in CELL_METADATA}
        if cell.cell_type != "code":
            continue
        if "keep_output" not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
        elif cell.id in ran:
            cell.outputs, cell.execution_count = kept(ran[cell.id].outputs), 1
    chapter.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}


def strip_run(run) -> None:
    """Strip a printed run in place of what tells of the machine, and of bars; its outputs stay."""
    for part in (run, *run.cells):
        for noise in RUN_NOISE:
            part.metadata.pop(noise, None)
    drop_bars(run)
    if not any(WIDGET in out.get("data", {}) for cell in run.cells for out in cell.get("outputs", [])):
        run.metadata.pop("widgets", None)  # the bars' state, large and of no use


def stamp(chapter, root: Path, name: str) -> None:
    """Write a chapter's install cell and Colab link anew, in place."""
    slug, _ = repository(root)
    for cell in chapter.cells:
        if "install" in cell.metadata.get("tags", []):
            cell.source = INSTALL.format(slug=slug)
    first = chapter.cells[0]
    first.source = re.sub(r"\[Open in Colab\]\([^)]*\)", lambda _: colab_link(root, name), first.source)


def tidy(root: Path, executed_folder: Path = EXECUTED) -> list[str]:
    """Bring chapters, printed runs and addresses under ``root`` in order.

    Returns:
        One line per file that changed.
    """
    changed = []

    def write(path: Path, text: str) -> None:
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8", newline="\n")
            changed.append(f"tidied {path.relative_to(root).as_posix()}")

    for path in sorted((root / "notebooks").glob("*.ipynb")):
        chapter, executed = nbformat.read(path, as_version=4), executed_folder / path.name
        stamp(chapter, root, path.name)
        copy = nbformat.read(executed, as_version=4) if executed.exists() else None
        strip(chapter, copy if copy and sources(copy) == sources(chapter) else None)
        write(path, nbformat.writes(chapter) + "\n")
    for path in sorted((root / "book" / "runs").glob("*.ipynb")):
        run = nbformat.read(path, as_version=4)
        strip_run(run)
        write(path, nbformat.writes(run) + "\n")
    texts = [*root.glob("*.md"), *root.glob("book/*.md"), *root.glob("book/runs/*.ipynb")]
    for path in [*texts, root / "CITATION.cff", root / "pyproject.toml"]:
        write(path, with_addresses(path.read_text(encoding="utf-8"), repository(root)[0]))
    return changed
