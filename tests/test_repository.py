"""Pins, ranges, versions and addresses agree with each other."""

import ast
import importlib.metadata
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from book.tidy import ADDRESS, repository, with_addresses

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    line
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and line[0] != "#"
]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_requirements_are_exact_pins():
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in PINS), PINS


def test_pins_and_ranges_name_the_same_distributions():
    ranges = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert {name_of(pin) for pin in PINS} == {name_of(requirement) for requirement in ranges}


def test_nothing_in_the_ranges_can_replace_an_installed_torch():
    """An upper bound would make pip exchange what Colab has preinstalled."""
    assert not [requirement for requirement in PROJECT["dependencies"] if re.search(r"<|==|~=", requirement)]


def test_version_stands_once_in_the_package_and_the_citation_repeats_it():
    source = (ROOT / "mssf_lite" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["README.md", "CITATION.cff", "pyproject.toml", "CHANGELOG.md", "book/intro.md"]
)
def test_repository_address_derives_from_the_config(name):
    """Only places that ``python -m book tidy`` rewrites may hold the address."""
    text, (slug, _) = (ROOT / name).read_text(encoding="utf-8"), repository(ROOT)
    assert with_addresses(text, slug) == text, "python -m book tidy writes the address of _config.yml"
    assert text.count(slug) == len(ADDRESS.findall(text)), "an address in a place that tidy does not know"


def test_every_module_is_on_the_page_of_the_package():
    """Modules inside ``mssf_lite/data`` show what ``mssf_lite.data`` re-exports."""
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"automodule:: mssf_lite\.(\w+)\n", page)
    inside = [
        path
        for path in (ROOT / "mssf_lite").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted(shown) == sorted(path.stem for path in inside if not path.name.startswith("_"))


def test_package_does_not_know_the_book():
    for path in (ROOT / "mssf_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] in {"book", "papermill"}], path


def test_continuous_integration_runs_what_people_run():
    script = ROOT / ".ci" / "run"
    assert os.name == "nt" or os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert commands == ["set -e", 'cd "$(dirname "$0")/.."', "make test"]


def test_vendored_scripts_come_with_their_licences():
    for folder in (ROOT / "book" / "_static" / "vendor").iterdir():
        assert folder.name == "README.md" or (folder / "LICENSE").is_file(), folder


def test_jupyter_book_is_the_first_one():
    """Jupyter Book 2 is a different program, which cannot read this book."""
    assert importlib.metadata.version("jupyter-book").split(".")[0] == "1"
