"""Parameters that papermill injects are refused unless the notebook declares them."""

import json
from types import SimpleNamespace

import IPython
import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mssf_lite.notebook import assigned_names, check_parameters

PARAMETERS = "dataset = 'mt'\nseed: int = 0  # any whole number\n"


def test_declared_parameters_pass():
    check_parameters(["", "import sys", PARAMETERS, "# Parameters\nseed = 3\ndataset = 'folder'\n"])


def test_an_undeclared_parameter_is_named_with_its_nearest_neighbour():
    with pytest.raises(ValueError, match=r"no parameter 'sead': did you mean 'seed'.*It has dataset, seed"):
        check_parameters(["", PARAMETERS, "# Parameters\nsead = 3\n"])


def test_without_injection_any_name_may_be_assigned():
    check_parameters(["", PARAMETERS, "model = 1"])


def test_executing_an_output_file_out_of_order_is_no_error():
    injected = "# Parameters\nseed = 3\n"
    check_parameters(["", PARAMETERS, injected, "model = 1", injected])


def test_outside_a_kernel_nothing_is_checked():
    check_parameters()


def test_only_assignments_at_the_top_level_count():
    source = "import os\na = b = 1\nc, d = 1, 2\ne: int = 3\n[0][0] == f\ndef g():\n    h = 1\n"
    assert assigned_names(source) == ["a", "b", "c", "d", "e"]


def test_a_broken_cell_declares_nothing():
    assert assigned_names("seed = = 3") == []


def test_what_papermill_and_the_kernel_really_leave_is_understood(tmp_path, monkeypatch):
    """A real run: the header that papermill writes, the history that IPython keeps."""
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    tell = new_code_cell("import json\n\nprint(json.dumps(get_ipython().user_ns['In']))")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        new_notebook(cells=[parameters, tell], metadata={"kernelspec": kernel}), tmp_path / "a.ipynb"
    )
    run = papermill.execute_notebook(
        str(tmp_path / "a.ipynb"), str(tmp_path / "out.ipynb"), {"sead": 1}, progress_bar=False
    )
    history = json.loads(run.cells[-1].outputs[0].text)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={"In": history}))
    with pytest.raises(ValueError, match="no parameter 'sead'"):
        check_parameters()
