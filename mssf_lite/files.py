"""Writing files so that nobody ever meets half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A place to write to that becomes ``path`` in one step, or leaves no trace if anything goes wrong.

    ::

        with written_whole("record.json") as aside:
            aside.write_text(text)

    Args:
        path: the file to be; its folder is made if it is not there, a file of that name is replaced.

    Yields:
        An empty file in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        os.chmod(aside, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
