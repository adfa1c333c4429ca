"""The chapters' sources keep the rules that make them reviewable, checkable and portable."""

import re
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book.tidy import CELL_METADATA, INSTALL, KERNEL, RUN_NOISE, colab_link, repository

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNS = sorted((ROOT / "book" / "runs").glob("*.ipynb"))
LONGEST = 25  # lines of a code cell
CHECKED = "nbval-check-output"


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def problems(chapter, name: str) -> list[str]:
    """What is wrong with a chapter's source, one line each."""
    found = []
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", name):
        found.append(f"{name}: a chapter is called NN_name.ipynb")
    if colab_link(ROOT, name) not in chapter.cells[0].source:
        found.append(f"the first cell does not say {colab_link(ROOT, name)}")
    install = [cell for cell in code if "install" in tags(cell)]
    if install != code[:1] or install[0].source != INSTALL.format(slug=repository(ROOT)[0]):
        found.append("the first code cell is not the install cell of book/tidy.py, tagged install")
    parameters = [number for number, cell in enumerate(code) if "parameters" in tags(cell)]
    if len(parameters) != 1:
        found.append(f"{len(parameters)} cells are tagged parameters, not one")
    elif not any("check_parameters()" in cell.source for cell in code[parameters[0] + 1 : parameters[0] + 2]):
        found.append("the code cell after the parameters does not call check_parameters()")
    if not any(CHECKED in tags(cell) for cell in code):
        found.append(f"no cell is tagged {CHECKED}")
    if set(chapter.metadata) - {"kernelspec", "language_info"}:
        found.append(f"metadata of the notebook: {sorted(chapter.metadata)}")
    for cell in chapter.cells:
        if extra := set(cell.metadata) - CELL_METADATA:
            found.append(f"{cell.id}: metadata {sorted(extra)}")
    for cell in code:
        kept, checked = "keep_output" in tags(cell), CHECKED in tags(cell)
        if not kept and (cell.outputs or cell.execution_count is not None):
            found.append(f"{cell.id}: has outputs or a count and is not tagged keep_output")
        if checked and not (kept and cell.outputs and cell.execution_count == 1):
            # nbval compares nothing where the count is missing, and says nothing about it
            found.append(f"{cell.id}: checked, but without tag keep_output, outputs or count: nbval is blind")
        if len(cell.source.splitlines()) > LONGEST:
            found.append(f"{cell.id}: {len(cell.source.splitlines())} lines, {LONGEST} at most")
        image = cell.metadata.get("mystnb", {}).get("image", {})
        if "plt.show()" in cell.source and not str(image.get("alt", "")).strip():
            found.append(f"{cell.id}: shows a figure without mystnb.image.alt in its metadata")
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_keeps_the_rules(path):
    chapter = nbformat.read(path, as_version=4)
    nbformat.validate(chapter)
    assert not problems(chapter, path.name), "`python -m book tidy` mends most of these"


def toc_files(node) -> set[str]:
    """Every file that ``_toc.yml`` names."""
    if isinstance(node, list):
        return set().union(*map(toc_files, node))
    if not isinstance(node, dict):
        return set()
    own = {node[key] for key in ("file", "root") if key in node}
    return own.union(*map(toc_files, node.values()))


def test_table_of_contents_and_files_agree():
    named = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    lost = [name for name in named if not any((ROOT / f"{name}{end}").exists() for end in (".md", ".ipynb"))]
    assert not lost, "named in _toc.yml, but not there"
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in CHAPTERS + RUNS}
    assert not pages - named, "not named in _toc.yml"


def test_printed_runs_are_complete_and_tell_nothing_of_the_machine():
    for path in RUNS:
        run = nbformat.read(path, as_version=4)
        outputs = [output for cell in run.cells for output in cell.get("outputs", [])]
        assert outputs, path
        assert not [output for output in outputs if output.output_type == "error"], path
        assert not [noise for part in [run, *run.cells] for noise in RUN_NOISE if noise in part.metadata], (
            path
        )


# The rules themselves: a good chapter passes, and each way of breaking it is seen.


def good():
    def code(source: str, *names: str, **metadata):
        return new_code_cell(source, metadata={**({"tags": list(names)} if names else {}), **metadata})

    title = new_markdown_cell(f"# Title\n\n{colab_link(ROOT, '05_good.ipynb')}")
    install = code(INSTALL.format(slug=repository(ROOT)[0]), "install", "remove-cell")
    checked = code("print(1)", CHECKED, "keep_output")
    checked.outputs, checked.execution_count = [new_output("stream", text="1\n")], 1
    figure = code("plt.show()", mystnb={"image": {"alt": "A curve that falls"}})
    cells = [title, install, code("seed = 0", "parameters"), code("check_parameters()"), checked, figure]
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def test_good_chapter_has_no_problems():
    nbformat.validate(good())
    assert problems(good(), "05_good.ipynb") == []


BREAKAGE = {
    "other address": lambda c: c.cells[0].update(source="# Title"),
    "other install cell": lambda c: c.cells[1].update(source="%pip install torch"),
    "no install cell": lambda c: c.cells.pop(1),
    "no parameters": lambda c: c.cells[2].metadata.update(tags=[]),
    "two parameters cells": lambda c: c.cells[3].metadata.update(tags=["parameters"]),
    "unchecked parameters": lambda c: c.cells[3].update(source="pass"),
    "no checked cell": lambda c: c.cells.pop(4),
    "checked without count": lambda c: c.cells[4].update(execution_count=None),
    "checked without output": lambda c: c.cells[4].update(outputs=[]),
    "checked, output not kept": lambda c: c.cells[4].metadata.update(tags=[CHECKED]),
    "outputs": lambda c: c.cells[5].update(outputs=[new_output("stream", text="1")]),
    "count": lambda c: c.cells[3].update(execution_count=7),
    "papermill's notes": lambda c: c.metadata.update(papermill={}),
    "widget state": lambda c: c.metadata.update(widgets={}),
    "cell's notes": lambda c: c.cells[3].metadata.update(collapsed=True),
    "long cell": lambda c: c.cells[5].update(source="pass\n" * (LONGEST + 1)),
    "figure without words": lambda c: c.cells[5].metadata.update(mystnb={}),
}


@pytest.mark.parametrize("breakage", BREAKAGE)
def test_rules_see_every_breakage(breakage):
    chapter = deepcopy(good())
    BREAKAGE[breakage](chapter)
    assert problems(chapter, "05_good.ipynb")


def test_rules_see_a_wrong_name():
    assert problems(good(), "good.ipynb")
