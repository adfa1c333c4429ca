"""What ``python -m book`` does once its environment stands: execute, print, check.

Chapters are executed from ``notebooks/`` into ``_build/executed/notebooks/``; the pages are made from those
copies (see ``book/_ext/executed_notebooks.py``), so sources stay clean. What is unchanged is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "_build" / "executed" / "notebooks"
CHECK = ROOT / "_build" / "check" / "notebooks"
SITE = ROOT / "_build" / "html"
KERNELS = {  # see set_environment
    "JUPYTER_PREFER_ENV_PATH": "1",  # our own kernel comes before any registered elsewhere
    # Threads that wait for each other spin a moment, then sleep. With another program on one of two cores,
    # training on the drawn textures took 94 s when they slept at once and 297 s when they spun as they liked;
    # with two cores to itself a chapter of many small steps took 80 s when they slept at once, 54 s this way.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "20000",
    # Freed memory is kept for the next layer instead of being handed back and asked for again: 36 instead of
    # 52 ms an image for the frozen network on one thread (glibc only).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def set_environment(long: bool = False) -> None:
    """Set what every process started by ``python -m book`` inherits; what the user has set stays.

    Args:
        long: for the long runs, which train in the precision that is fast where they run, and whose records
            say which. Chapters compute alike on every processor, for their texts speak of what comes out.
            (bfloat16 trains 1.5 times as fast where there are instructions for it.)
    """
    for name, value in (KERNELS if long else KERNELS | {"MSSF_PRECISION": "float32"}).items():
        os.environ.setdefault(name, value)


def chapters(folder: Path = ROOT / "notebooks") -> list[Path]:
    """The chapters' sources in reading order."""
    found = sorted(folder.glob("[0-9]*.ipynb"))
    if not found:
        raise SystemExit(f"{folder} holds no chapter (a notebook whose name starts with a number)")
    return found


def digest(paths: Iterable[Path], *extra: str) -> str:
    """One sha256 over the names and contents of files, and over ``extra``."""
    total = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    for word in extra:
        total.update(word.encode())
    return total.hexdigest()


def parameters_for(notebook: Path, profile: str | None) -> dict[str, str]:
    """What to inject: the profile where one is asked for and the chapter has such a parameter."""
    if not profile:
        return {}
    import papermill

    return {"profile": profile} if "profile" in papermill.inspect_notebook(str(notebook)) else {}


def slowest(notebook, count: int = 3) -> str:
    """The cells that took longest, one line each."""
    timed = [
        (cell.metadata.get("papermill", {}).get("duration") or 0.0, index, cell.source.strip().split("\n")[0])
        for index, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
    ]
    longest = sorted(timed, reverse=True)[:count]
    return "".join(f"\n    {seconds:6.1f} s  cell {index}: {line[:70]}" for seconds, index, line in longest)


def run_notebook(
    notebook: Path, copy: Path, parameters: dict[str, Any], title: str, save_often: bool = False
):
    """Execute a notebook in a fresh kernel, from the root of the checkout.

    Args:
        notebook: the source, left as it is.
        copy: where the executed notebook goes, also one that stopped at an error.
        parameters: what to inject.
        title: of the progress bar.
        save_often: write the copy after every cell, for runs of hours; else at the end.

    Returns:
        The executed notebook.

    Raises:
        papermill.PapermillExecutionError: a cell failed.
    """
    import papermill  # takes seconds, which a call with nothing to do should not

    return papermill.execute_notebook(
        str(notebook),
        str(copy),
        parameters=parameters,
        cwd=str(ROOT),
        kernel_name="python3",
        progress_bar={"desc": title},
        request_save_on_cell_execute=save_often,
        autosave_cell_every=30 if save_often else 0,  # seconds within a cell
        extra_arguments=["--IPKernelApp.log_level=40"],  # else one warning per kernel about its port
    )


def execute(notebook: Path, parameters: dict[str, str], out: Path = EXECUTED, force: bool = False) -> str:
    """Execute one chapter into ``out``, unless its copy there is of this notebook, package and parameters.

    The copy appears under its name only when every cell has run; a failed run leaves none.

    Returns:
        A line that says what was done.

    Raises:
        SystemExit: a cell failed; the message names it and the error.
    """
    copy, part = out / notebook.name, out / f"{notebook.stem}.part.ipynb"
    stamp = copy.with_suffix(".key")
    package = (ROOT / "mssf_lite").rglob("*")
    key = digest([notebook, Path(__file__), ROOT / "requirements.txt", *package], json.dumps(parameters))
    if not force and copy.exists() and stamp.exists() and stamp.read_text() == key:
        return f"{notebook.stem}: unchanged"
    import papermill

    out.mkdir(parents=True, exist_ok=True)
    for stale in (copy, stamp):
        stale.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        done = run_notebook(notebook, part, parameters, notebook.stem)
    except papermill.PapermillExecutionError as error:
        raise SystemExit(
            "\n".join(error.traceback) + f"\n{notebook.stem} stopped in cell {error.cell_index + 1} with "
            f"{error.ename}: {error.evalue}\nThe cell:\n{error.source}\nHow far it came: {part}"
        ) from None
    part.replace(copy)
    stamp.write_text(key)
    return f"{notebook.stem}: {time.perf_counter() - start:.1f} s{slowest(done)}"


def print_book() -> str:
    """Make the pages from the executed copies and check them; do nothing where nothing has changed.

    Pages are always made from scratch: an incremental build forgets the warnings of pages it does not read
    again, and keeps pages that are gone.

    Raises:
        SystemExit: a warning of Jupyter Book, or something that :func:`check_site` found.
    """
    from book.site_checks import check_site

    trees = [path for name in ("book", "mssf_lite", "notebooks") for path in (ROOT / name).rglob("*")]
    key = digest([*trees, *EXECUTED.glob("*.ipynb"), *ROOT.glob("_*.yml"), *ROOT.glob("*.md")])
    stamp = SITE.with_suffix(".key")
    if stamp.exists() and stamp.read_text() == key and (SITE / "index.html").exists():
        return "pages: unchanged"
    stamp.unlink(missing_ok=True)
    for folder in (SITE, SITE.with_name(".doctrees"), SITE.with_name("jupyter_execute")):
        shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    if subprocess.call([*jupyter_book, "build", ".", "-W", "-n", "--keep-going"], cwd=ROOT):
        raise SystemExit("Jupyter Book has warnings (above), and a warning is an error here")
    if problems := check_site(SITE):
        raise SystemExit("\n".join(["The pages are made, but:", *problems]))
    stamp.write_text(key)
    return f"pages: {time.perf_counter() - start:.1f} s"


def run_tests() -> int:
    """Style, tests, then every chapter at the ``check`` profile with its checked cells compared.

    Returns:
        The exit status of the first step that failed, or 0.
    """
    import papermill

    python, pytest = [sys.executable, "-m"], [sys.executable, "-m", "pytest", "-q"]
    shutil.rmtree(CHECK, ignore_errors=True)
    CHECK.mkdir(parents=True)
    for notebook in chapters():  # nbval cannot inject parameters, so it gets copies that hold them already
        parameters = parameters_for(notebook, "check")
        papermill.execute_notebook(str(notebook), str(CHECK / notebook.name), parameters, prepare_only=True)
    steps = {
        "style": [*python, "ruff", "check", "."],
        "format": [*python, "ruff", "format", "--check", "."],
        "tests": [*pytest, "-p", "no:nbval"],
        "chapters": [*pytest, "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", str(CHECK)],
    }
    status, summary = 0, []
    for name, command in steps.items():
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        status = subprocess.call(command, cwd=ROOT)
        seconds = time.perf_counter() - start
        summary.append(f"{name:>10}  {'FAILED' if status else 'passed '}  {seconds:6.1f} s")
        if status:
            summary += [f"{later:>10}  not run" for later in list(steps)[len(summary) :]]
            break
    print("\n".join(["== summary", *summary]), flush=True)
    return status


def main(command: str, profile: str | None = None, force: bool = False) -> int:
    """Run one of the commands of ``python -m book``; returns the exit status."""
    if command == "test":
        return run_tests()
    if command == "tidy":
        from book.tidy import tidy

        print("\n".join(tidy(ROOT)) or "nothing to tidy")
        return 0
    todo = chapters()
    for number, notebook in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}] {notebook.stem}", flush=True)
        print(f"  {execute(notebook, parameters_for(notebook, profile), force=force)}", flush=True)
    print("Printing the book (a warning is an error)", flush=True)
    print(f"  {print_book()}", flush=True)
    print(f"Open {SITE / 'index.html'}\nor, with working search: {sys.executable} -m http.server -d {SITE}")
    return 0
