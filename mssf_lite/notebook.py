"""What a chapter needs of its notebook: refusing parameters it does not have.

``papermill chapter.ipynb out.ipynb -p seed 1`` puts a cell of assignments behind the one tagged
``parameters``. Papermill itself accepts any name there: a misspelt one would leave the default in force.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence

INJECTED = "# Parameters\n"  # how papermill's injected cell begins


def assigned_names(source: str) -> list[str]:
    """The names that a cell assigns at its top level, in order."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell that stopped with an error
        return []
    targets = []
    for node in body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def check_parameters(history: Sequence[str] | None = None) -> None:
    """Refuse parameters that papermill injected and the notebook does not declare.

    Call it in the cell after the parameters. Without papermill it does nothing.

    Args:
        history: the cells executed so far; by default those of the running kernel (IPython's ``In``).

    Raises:
        ValueError: a name was injected that no earlier cell assigns; the message names it and its neighbour.
    """
    if history is None:
        from IPython import get_ipython

        shell = get_ipython()
        history = shell.user_ns["In"] if shell else []
    # the first one: in an opened output file, later cells may be executed again in any order
    position = next((i for i, source in enumerate(history) if source.startswith(INJECTED)), None)
    if position is None:
        return
    declared = [name for source in history[:position] for name in assigned_names(source)]
    for name in assigned_names(history[position]):
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"This chapter has no parameter {name!r}: {hint}It has {', '.join(declared)}")
