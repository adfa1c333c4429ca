"""``python -m book``: from a fresh machine to the printed book.

This file needs nothing but Python 3.11 or newer. It makes ``.venv``, installs ``requirements.txt`` there and
starts itself again inside. With ``--here`` it uses the current interpreter and installs only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = "mssf_lite.stamp"  # written last, so that an interrupted install is done again
PLANS = ("ablations", "steps", "light", "peers", "msflow", "memory", "larger")  # see trials.py
KEEP = ("torch", "torchvision", "numpy")  # what --here never replaces


def venv_python(venv: Path = VENV) -> Path:
    """The interpreter of the environment at ``venv``."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_of(requirements: Path) -> str:
    """What an environment depends on: the pins and Python's minor version."""
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()
    return f"python {sys.version_info[0]}.{sys.version_info[1]}\nrequirements {pins}\n"


def set_up(venv: Path = VENV, requirements: Path = ROOT / "requirements.txt") -> Path:
    """Make ``venv`` hold exactly the pins in ``requirements``; do nothing where it already does.

    Returns:
        The environment's interpreter.
    """
    stamp, wanted, python = venv / STAMP, stamp_of(requirements), venv_python(venv)
    found = stamp.read_text() if stamp.exists() else ""
    if found == wanted and python.exists():
        return python
    stamp.unlink(missing_ok=True)
    # another Python, or one that has gone: start afresh, unless we are running inside it
    other = found and found.splitlines()[0] != wanted.splitlines()[0]
    if (other or not python.exists()) and Path(sys.prefix).resolve() != venv.resolve():
        print(f"Making {venv.name} with Python {sys.version.split()[0]}", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", "--clear", str(venv)]):
            raise SystemExit(
                f"{sys.executable} cannot make a virtual environment: install its venv module (Debian: "
                "apt install python3-venv), or use the current environment: python -m book --here"
            )
    print(f"Installing {requirements.name} into {venv.name} (once; a few minutes)", flush=True)
    if subprocess.call([str(python), "-m", "pip", "install", "-r", str(requirements)]):
        raise SystemExit("pip could not install the requirements (see above); the next call tries again")
    stamp.write_text(wanted)
    return python


def version_of(requirement: str) -> str | None:
    """The installed version of a requirement such as ``torch>=2.4``, or None."""
    try:
        return importlib.metadata.version(re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0])
    except importlib.metadata.PackageNotFoundError:
        return None


def set_up_here(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Install what the current environment lacks, and leave its torch, torchvision and numpy as they are.

    Returns:
        The requirements that were missing.
    """
    import tomllib  # not in Python 3.10, which gets a friendlier message in main()

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    missing = [requirement for requirement in wanted if version_of(requirement) is None]
    if missing:
        print(f"Installing into {sys.prefix}: {', '.join(missing)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            kept = [f"{name}=={version}\n" for name in KEEP if (version := version_of(name))]
            constraints.write_text("".join(kept))
            if subprocess.call([sys.executable, "-m", "pip", "install", "-c", str(constraints), *missing]):
                raise SystemExit(
                    f"pip could not install {missing} beside {[*map(str.strip, kept)]} (see above)"
                )
    return missing


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; unknown words end with a usage message."""
    parser = argparse.ArgumentParser(prog="python -m book", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "command",
        nargs="?",
        default="book",
        choices=["book", "test", "tidy", "runs", *PLANS],
        help="book (default): execute the chapters and print the book; test: style, tests, checked cells; "
        "tidy: strip the notebooks and refresh their checked outputs and links; the others: what is missing "
        "or out of date of the runs that book/<command>.yml declares",
    )
    parser.add_argument("--here", action="store_true", help="use the current environment, make no .venv")
    parser.add_argument("--profile", help="book: run the chapters at another profile (check, fast, full)")
    parser.add_argument("--data", default="", help="long runs: folder of the data sets (or MSSF_DATA)")
    parser.add_argument("--only", default="", help="long runs: one data set, or one variant")
    parser.add_argument("--part", default="1/1", help="small runs: such as 2/4, the second of four shares")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NETWORK=FILE", help="where weights lie"
    )
    parser.add_argument("--force", action="store_true", help="book: execute unchanged chapters too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up, then do what the command line asks for; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 (a message instead of a traceback)
        raise SystemExit(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: try another python3"
        )
    args = parse(arguments)
    if args.here:
        set_up_here()
    else:
        python = set_up()
        if Path(sys.prefix).resolve() != VENV.resolve():
            own = list(sys.argv[1:] if arguments is None else arguments)
            env = {**os.environ, "PYTHONUTF8": "1"}  # this one must be set before Python starts
            return subprocess.call([str(python), "-m", "book", *own], cwd=ROOT, env=env)
    from book import build

    build.set_environment(long=args.command in ("runs", *PLANS))
    if args.command == "runs":
        from book import runs

        return runs.main(args.data, args.only)
    if args.command in PLANS:  # they compute in their own process, which must start in this environment
        words = [args.command, args.data, args.only, args.part, *args.weights]
        return subprocess.call([sys.executable, "-m", "book.trials", *words], cwd=ROOT)
    return build.main(args.command, args.profile, args.force)


if __name__ == "__main__":
    sys.exit(main())
