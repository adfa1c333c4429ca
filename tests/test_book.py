"""The book's machinery: setting up, executing, showing, checking, tidying."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book import __main__ as driver
from book import build, runs, tidy
from book._ext import executed_notebooks as extension
from book.site_checks import check_site

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"kernelspec": tidy.KERNEL}


@pytest.fixture
def calls(monkeypatch):
    """Commands that would have been run; ``calls.status`` is what they return."""

    class Calls(list):
        status = 0

    seen = Calls()

    def call(command, **_):
        seen.append(command)
        if "venv" in command:  # what `python -m venv` would leave behind
            python = driver.venv_python(Path(command[-1]))
            python.parent.mkdir(parents=True)
            python.touch()
        return seen.status

    monkeypatch.setattr(subprocess, "call", call)
    return seen


# Setting up


@pytest.fixture
def pins(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch==2.13.0\n")
    return requirements


def test_fresh_machine_gets_an_environment_and_the_pins(tmp_path, pins, calls):
    python = driver.set_up(tmp_path / "venv", pins)
    assert python == driver.venv_python(tmp_path / "venv")
    assert [command[1:3] for command in calls] == [["-m", "venv"], ["-m", "pip"]]
    assert calls[1][0] == str(python)
    assert calls[1][-2:] == ["-r", str(pins)]


def test_second_call_does_nothing(tmp_path, pins, calls):
    driver.set_up(tmp_path / "venv", pins)
    calls.clear()
    driver.set_up(tmp_path / "venv", pins)
    assert calls == []


def test_changed_pins_are_installed_into_the_same_environment(tmp_path, pins, calls):
    driver.set_up(tmp_path / "venv", pins)
    pins.write_text("torch==2.14.0\n")
    calls.clear()
    driver.set_up(tmp_path / "venv", pins)
    assert [command[1:3] for command in calls] == [["-m", "pip"]]


@pytest.mark.parametrize("later", ["torch==2.14.0\n", "torch==2.13.0\n"])
def test_interrupted_install_is_done_again(tmp_path, pins, calls, later):
    driver.set_up(tmp_path / "venv", pins)
    pins.write_text("torch==2.14.0\n")
    calls.status = 1
    with pytest.raises(SystemExit, match="the next call tries again"):
        driver.set_up(tmp_path / "venv", pins)
    pins.write_text(later)  # even the old pins are no longer certain
    calls.status = 0
    calls.clear()
    driver.set_up(tmp_path / "venv", pins)
    assert [command[1:3] for command in calls] == [["-m", "pip"]]


def test_another_python_gets_a_new_environment(tmp_path, pins, calls, monkeypatch):
    driver.set_up(tmp_path / "venv", pins)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    calls.clear()
    with pytest.raises(FileExistsError):  # the stand-in for `venv --clear` does not clear
        driver.set_up(tmp_path / "venv", pins)
    assert calls[0][1:4] == ["-m", "venv", "--clear"]


def test_machine_without_venv_is_told_what_to_do(tmp_path, pins, calls):
    calls.status = 1
    with pytest.raises(SystemExit, match=r"python3-venv.*--here"):
        driver.set_up(tmp_path / "venv", pins)


def test_driver_starts_itself_again_inside_the_environment(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(driver, "VENV", tmp_path)
    monkeypatch.setattr(driver, "set_up", lambda: tmp_path / "python")
    assert driver.main(["test"]) == 0
    assert calls == [[str(tmp_path / "python"), "-m", "book", "test"]]


@pytest.mark.parametrize("command", ["book", "test", "tidy", "runs"])
def test_every_command_sets_the_environment_of_its_kernels_but_not_what_the_user_has_set(
    command, monkeypatch
):
    seen = []
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "active"})
    monkeypatch.setattr(driver, "set_up_here", lambda: None)
    for module in (build, runs):
        monkeypatch.setattr(module, "main", lambda *_: seen.append(dict(os.environ)))
    driver.main([command, "--here"])
    # chapters compute alike on every processor, long runs as is fast on this one
    alike = {} if command == "runs" else {"MSSF_PRECISION": "float32"}
    assert seen == [{**build.KERNELS, **alike, "OMP_WAIT_POLICY": "active"}]


def test_bootstrap_needs_the_standard_library_only():
    """``-S`` hides site-packages; the help text comes before anything is installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "book", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--here" in done.stdout


def test_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        driver.parse(["bock"])
    assert "invalid choice: 'bock'" in capsys.readouterr().err


def test_here_installs_what_is_missing_and_holds_torch(tmp_path, calls, monkeypatch):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(
        '[project]\ndependencies = ["torch>=2.4", "numpy>=1.26", "absent_one>=1"]\n'
        '[project.optional-dependencies]\nbook = ["jupyter-book>=1.0.4,<2", "absent-two"]\n'
    )
    have = {"torch": "2.6.0+cu124", "numpy": "2.0.2", "jupyter-book": "1.0.4"}

    def version(name):
        if name not in have:
            raise driver.importlib.metadata.PackageNotFoundError(name)
        return have[name]

    held = []

    def call(command, **_):
        calls.append(command)
        held.extend(Path(command[command.index("-c") + 1]).read_text().split())
        return 0

    monkeypatch.setattr(driver.importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "call", call)
    assert driver.set_up_here(pyproject) == ["absent_one>=1", "absent-two"]
    assert calls[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert calls[0][-2:] == ["absent_one>=1", "absent-two"]
    assert held == ["torch==2.6.0+cu124", "numpy==2.0.2"]  # torchvision is absent here, so nothing to hold


def test_here_with_nothing_missing_calls_no_pip(tmp_path, calls):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\ndependencies = ["pytest"]\n[project.optional-dependencies]\n')
    assert driver.set_up_here(pyproject) == []
    assert calls == []


# Executing


def notebook(path: Path, *sources: str) -> Path:
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Papermill without a kernel; counts its runs."""
    runs = []

    def run(source, target, parameters, **_):
        runs.append(parameters)
        chapter = nbformat.read(source, as_version=4)
        chapter.cells[0].metadata["papermill"] = {"duration": 1.5}
        nbformat.write(chapter, target)
        return chapter

    monkeypatch.setattr(papermill, "execute_notebook", run)
    return runs


def test_chapter_is_executed_once_until_it_changes(tmp_path, quick):
    chapter = notebook(tmp_path / "01_a.ipynb", "seed = 0")
    assert "1.5 s  cell 1: seed = 0" in build.execute(chapter, {}, tmp_path / "out")
    assert build.execute(chapter, {}, tmp_path / "out") == "01_a: unchanged"
    assert len(quick) == 1
    notebook(chapter, "seed = 1")
    build.execute(chapter, {}, tmp_path / "out")
    build.execute(chapter, {"profile": "check"}, tmp_path / "out")
    build.execute(chapter, {"profile": "check"}, tmp_path / "out", force=True)
    assert len(quick) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01_a.ipynb", "01_a.key"]


def test_failed_run_names_cell_and_error_and_leaves_no_copy(tmp_path):
    """A real kernel; the copy of an earlier good run goes too."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "01_a.ipynb").write_text("{}")
    chapter = notebook(tmp_path / "01_a.ipynb", "seed = 0", "1 / seed")
    with pytest.raises(SystemExit, match=r"01_a stopped in cell 2 with ZeroDivisionError"):
        build.execute(chapter, {}, out)
    assert [path.name for path in out.iterdir()] == ["01_a.part.ipynb"]


def test_profile_is_injected_only_where_it_is_a_parameter(tmp_path):
    assert build.parameters_for(notebook(tmp_path / "a.ipynb", "profile = 'fast'"), "check") == {
        "profile": "check"
    }
    assert build.parameters_for(notebook(tmp_path / "b.ipynb", "seed = 0"), "check") == {}
    assert build.parameters_for(tmp_path / "a.ipynb", None) == {}


def test_folder_without_chapters_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="holds no chapter"):
        build.chapters(tmp_path)


def test_digest_sees_contents_names_and_words(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    first = build.digest([a, b])
    assert first == build.digest([b, a])
    assert first != build.digest([a, b], "word")
    b.write_text("1")
    a.write_text("2")
    assert first != build.digest([a, b])


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A book of one page, and in place of Jupyter Book a stand-in that writes ``pages.text``."""
    state = SimpleNamespace(text="<p>page</p>", status=0, built=0, source=tmp_path / "book" / "intro.md")
    state.source.parent.mkdir()
    state.source.write_text("# Title")
    site = tmp_path / "_build" / "html"

    def call(command, **_):
        assert {"-W", "-n"} <= set(command)
        assert not site.exists()  # always from scratch
        state.built += 1
        site.mkdir(parents=True)
        (site / "index.html").write_text(state.text)
        return state.status

    monkeypatch.setattr(subprocess, "call", call)
    for name, value in {"ROOT": tmp_path, "SITE": site, "EXECUTED": tmp_path / "executed"}.items():
        monkeypatch.setattr(build, name, value)
    return state


def test_pages_are_made_once_until_something_changes(pages):
    build.print_book()
    assert build.print_book() == "pages: unchanged"
    pages.source.write_text("# Another title")
    build.print_book()
    assert pages.built == 2


def test_pages_with_warnings_fail_every_time(pages):
    """An incremental build would forget the warnings of the pages it does not read again."""
    pages.status = 1
    for _ in range(2):
        with pytest.raises(SystemExit, match="a warning is an error"):
            build.print_book()
    assert pages.built == 2


def test_pages_with_a_dead_link_fail_every_time(pages):
    pages.text = '<a href="lost.html">lost</a>'
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"lost\.html leads to no file"):
            build.print_book()


def test_first_failing_step_ends_the_tests(tmp_path, calls, monkeypatch, capsys):
    monkeypatch.setattr(build, "CHECK", tmp_path / "check")
    monkeypatch.setattr(build, "chapters", lambda: [notebook(tmp_path / "01_a.ipynb", "profile = 'fast'")])
    calls.status = 3
    assert build.run_tests() == 3
    assert len(calls) == 1
    assert capsys.readouterr().out.count("not run") == 3
    prepared = nbformat.read(tmp_path / "check" / "01_a.ipynb", as_version=4)
    assert prepared.cells[1].source == '# Parameters\nprofile = "check"\n'


def test_nbval_really_compares_checked_cells(tmp_path):
    """The stored text is wrong, the count is there: nbval must fail. (Without the count it would not.)"""
    checked = new_code_cell("print(1 + 1)", metadata={"tags": ["nbval-check-output", "keep_output"]})
    checked.outputs, checked.execution_count = [new_output("stream", text="3\n")], 1
    nbformat.write(new_notebook(cells=[checked], metadata=KERNEL), tmp_path / "a.ipynb")
    command = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout


# Showing the executed copies


@pytest.fixture
def sphinx(tmp_path, monkeypatch):
    """A book with one source; ``sphinx.read(docname)`` gives the notebook that Sphinx would parse."""
    warnings = []
    monkeypatch.setattr(extension.LOG, "warning", lambda text, *words, **_: warnings.append(text % words))
    env = SimpleNamespace(doc2path=lambda name: f"{name}.ipynb", note_dependency=lambda path: None)
    app = SimpleNamespace(srcdir=tmp_path, config=SimpleNamespace(executed_dir="done"), env=env)

    def read(docname, source):
        text = [nbformat.writes(source)]
        extension.source_read(app, docname, text)
        return json.loads(text[0])

    copies = tmp_path / "done" / "notebooks"
    copies.mkdir(parents=True)
    return SimpleNamespace(read=read, warnings=warnings, copy=copies / "01_a.ipynb")


def chapter(source="1 + 1", *outputs, injected=False):
    cells = [new_markdown_cell("# Title"), new_code_cell(source, outputs=list(outputs))]
    if injected:
        cells.insert(1, new_code_cell("# Parameters\nseed = 1", metadata={"tags": [extension.INJECTED]}))
    return new_notebook(cells=cells)


def test_executed_copy_stands_in_for_its_source(sphinx):
    nbformat.write(chapter("1 + 1", new_output("stream", text="2"), injected=True), sphinx.copy)
    shown = sphinx.read("notebooks/01_a", chapter())
    assert shown["cells"][2]["outputs"]
    assert "hide-input" in shown["cells"][1]["metadata"]["tags"]
    assert sphinx.warnings == []


def test_missing_stale_and_stopped_copies_are_warnings(sphinx):
    sphinx.read("notebooks/01_a", chapter())
    assert "no executed copy" in sphinx.warnings.pop()
    nbformat.write(chapter("1 + 1"), sphinx.copy)
    sphinx.read("notebooks/01_a", chapter("1 + 2"))
    assert "is stale" in sphinx.warnings.pop()
    nbformat.write(chapter("1 / 0", new_output("error", ename="E", evalue="", traceback=[])), sphinx.copy)
    sphinx.read("notebooks/01_a", chapter("1 / 0"))
    assert "stopped at an error" in sphinx.warnings.pop()
    assert sphinx.warnings == []


def test_printed_run_is_shown_as_it_is_without_its_labels(sphinx):
    run = chapter("1 + 1", new_output("stream", text="2"))
    run.cells[
        0
    ].source = (
        "(sec-look)=\n# Look\n$$ x = 1 $$ (eq-x)\nsee {eq}`eq-x`, [next](02_next.ipynb)\n:label: eq-y\n"
    )
    run.cells[1].metadata["mystnb"] = {"figure": {"caption": "A map", "name": "fig-map"}}
    shown = sphinx.read("book/runs/mt", run)
    shown_text = "# Look\n$$ x = 1 $$\nsee {eq}`eq-x`, [next](../../notebooks/02_next.ipynb)\n"
    assert shown["cells"][0]["source"] == shown_text
    assert shown["cells"][1]["metadata"]["mystnb"] == {"figure": {"caption": "A map"}}
    assert shown["cells"][1]["outputs"]
    assert sphinx.warnings == []


def test_finished_progress_bars_are_not_printed_but_other_widgets_and_text_are():
    def widget(words):
        return new_output("display_data", {extension.WIDGET: {"model_id": "1"}, "text/plain": words})

    bar = widget("epoch 1 of 4:   0%|          | 0/36 [00:00<?, ?it/s]")
    kept = [widget("IntSlider(value=0)"), new_output("stream", text="done 100%| of [00:00 it\n")]
    notebook = new_notebook(cells=[new_code_cell("work()", outputs=[bar, *kept])])
    extension.drop_bars(notebook)
    assert notebook.cells[0].outputs == kept


def test_bars_in_docstrings_are_no_substitutions_but_literals_stay():
    lines = ["log |det J| and ``a | b``"]
    extension.escape_bars(None, "module", "m", None, None, lines)
    assert lines == [r"log \|det J\| and ``a | b``"]


# Checking the site

GOOD = """
<a href="b.html#there">b</a> <a href="https://elsewhere.org">e</a> <a href="i.png#x">i</a>
<img src="i.png" alt="A falling curve">
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><a href="a.html?x=1">a</a><a href="#there">t</a>')
    (tmp_path / "i.png").touch()
    return tmp_path


def test_good_site_has_no_problems(site):
    assert check_site(site) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "c.html",
            '<script src="https://cdn.org/x.js"></script>',
            "loads https://cdn.org/x.js from elsewhere",
        ),
        ("c.html", '<link rel="stylesheet" href="//cdn.org/x.css">', "loads //cdn.org/x.css from elsewhere"),
        ("c.html", '<img alt="A map" src="https://x.org/a.png">', "loads https://x.org/a.png from elsewhere"),
        ("s.css", "@import 'https://fonts.org/f.css';", "loads https://fonts.org/f.css from elsewhere"),
        ("s.css", "p {background: url(https://x.org/i.png)}", "loads https://x.org/i.png from elsewhere"),
        ("c.html", '<a href="d.html">d</a>', "d.html leads to no file"),
        ("c.html", '<a href="b.html#nowhere">b</a>', "b.html#nowhere leads to no place"),
        ("c.html", '<script src="lost.js"></script>', "lost.js leads to no file"),
        ("c.html", '<img src="i.png" alt="_images/i.png">', "i.png has no alternative text"),
        ("c.html", '<img src="i.png">', "i.png has no alternative text"),
    ],
)
def test_site_problem_is_seen(site, name, text, problem):
    (site / name).write_text(text)
    found = check_site(site)
    assert len(found) == 1
    assert problem in found[0]


def test_empty_site_is_a_problem(tmp_path):
    assert check_site(tmp_path)


# Tidying


@pytest.fixture
def project(tmp_path):
    """A small project whose config names a new address, and everything else the old one."""
    old = "https://github.com/mssf-lite/mssf-lite"
    (tmp_path / "_config.yml").write_text(
        "repository:\n  url: https://github.com/someone/fork.x\n  branch: dev\n"
    )
    (tmp_path / "README.md").write_text(f"git clone {old}\n")
    (tmp_path / "CITATION.cff").write_text(f"repository-code: {old}\n")
    (tmp_path / "pyproject.toml").write_text(f'Repository = "{old}"\n')
    for folder in ("notebooks", "book/runs", "executed"):
        (tmp_path / folder).mkdir(parents=True)
    link = "[Open in Colab](https://colab.research.google.com/github/mssf-lite/mssf-lite/blob/main/notebooks/x.ipynb)"
    keep = {"tags": ["nbval-check-output", "keep_output"], "collapsed": True}
    cells = [
        new_markdown_cell(f"# Title\n\n{link}\n", id="title"),
        new_code_cell("old", metadata={"tags": ["install"]}, id="install"),
        new_code_cell("2 + 2", metadata=keep, id="checked", outputs=[new_output("stream", text="3")]),
        new_code_cell("plot()", id="plot", execution_count=9, outputs=[new_output("stream", text="noise")]),
    ]
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": {}}), tmp_path / "notebooks" / "01_a.ipynb")
    return tmp_path


def run_of(project: Path, *outputs, **changes) -> None:
    """Leave an executed copy of the (stamped) chapter, as papermill would."""
    executed = nbformat.read(project / "notebooks" / "01_a.ipynb", as_version=4)
    tidy.stamp(executed, project, "01_a.ipynb")
    executed.cells[2].update(outputs=list(outputs), **changes)
    injected = new_code_cell("# Parameters", metadata={"tags": [extension.INJECTED]})
    executed.cells.insert(1, injected)
    nbformat.write(executed, project / "executed" / "01_a.ipynb")


def test_tidy_writes_every_address_from_the_config(project):
    tidy.tidy(project, project / "executed")
    assert (project / "README.md").read_text() == "git clone https://github.com/someone/fork.x\n"
    assert (project / "CITATION.cff").read_text() == "repository-code: https://github.com/someone/fork.x\n"
    assert (project / "pyproject.toml").read_text() == 'Repository = "https://github.com/someone/fork.x"\n'
    source = nbformat.read(project / "notebooks" / "01_a.ipynb", as_version=4)
    assert "/github/someone/fork.x/blob/dev/notebooks/01_a.ipynb)" in source.cells[0].source
    assert source.cells[1].source.endswith("%pip install --quiet git+https://github.com/someone/fork.x")


def test_tidy_strips_all_but_kept_text_which_it_takes_from_the_last_run(project):
    picture = new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})
    result = new_output("execute_result", {"text/plain": "4", "text/html": "<b>4</b>"}, execution_count=7)
    run_of(
        project,
        new_output("stream", text="four\n"),
        new_output("stream", name="stderr", text="oh"),
        picture,
        result,
    )
    assert "tidied notebooks/01_a.ipynb" in tidy.tidy(project, project / "executed")
    source = nbformat.read(project / "notebooks" / "01_a.ipynb", as_version=4)
    assert [cell.id for cell in source.cells] == ["title", "install", "checked", "plot"]
    checked, plot = source.cells[2:]
    assert checked.execution_count == 1
    assert [output.output_type for output in checked.outputs] == ["stream", "execute_result"]
    assert checked.outputs[1].data == {"text/plain": "4"}
    assert set(checked.metadata) == {"tags"}
    assert (plot.outputs, plot.execution_count) == ([], None)
    assert "widgets" not in source.metadata
    assert tidy.tidy(project, project / "executed") == []


def test_tidy_takes_nothing_from_a_stale_run(project):
    run_of(project, new_output("stream", text="5"), source="2 + 3")
    tidy.tidy(project, project / "executed")
    source = nbformat.read(project / "notebooks" / "01_a.ipynb", as_version=4)
    assert source.cells[2].outputs[0].text == "3"


def test_tidy_takes_dates_and_paths_out_of_printed_runs(project):
    cell = new_code_cell(
        "1", metadata={"papermill": {"start_time": "now"}}, outputs=[new_output("stream", text="1")]
    )
    path = project / "book" / "runs" / "mt.ipynb"
    nbformat.write(
        new_notebook(cells=[cell], metadata={**KERNEL, "papermill": {"input_path": "/home/me"}}), path
    )
    tidy.tidy(project, project / "executed")
    run = nbformat.read(path, as_version=4)
    assert run.cells[0].outputs
    assert "papermill" not in run.metadata
    assert "papermill" not in run.cells[0].metadata


def test_figures_on_the_front_page_are_those_of_the_records():
    found: dict[str, list[float]] = {}
    for path in (ROOT / "book" / "records").glob("mt-*-mssf-full-seed*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, metrics in {"mssf": record["metrics"], **record["yardsticks"]}.items():
            key = f"{record['dataset']['split']} {name}"
            found.setdefault(key, []).append(metrics["pooled"]["image_auroc"])
    mean = {key: sum(values) / len(values) for key, values in found.items()}
    words = " ".join((ROOT / "book" / "intro.md").read_text(encoding="utf-8").split())
    expected = (
        f"an image AUROC of {mean['published picture matching']:.2f} on the first and "
        f"{mean['tile picture matching']:.2f} on the second, where MSSF reaches {mean['tile mssf']:.3f}"
    )
    assert expected in words


def test_every_declared_run_has_a_record_or_says_how_to_make_it():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    records = [path.stem for path in (ROOT / "book" / "records").glob("*.json")]
    for run in runs.declared():
        name = runs.slug(run.dataset)
        if not any(stem.startswith(f"{name}-") for stem in records):
            text = (ROOT / "book" / "runs" / f"{name}.md").read_text(encoding="utf-8")
            assert "Not run" in text and f"-p dataset {run.dataset} " in text, run
            assert f"book/runs/{name}" in toc
