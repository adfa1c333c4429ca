"""The long runs: which are due, and what a printed one shows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_results import a_record

from book import runs
from book._ext.executed_notebooks import INJECTED
from mssf_lite import Config
from mssf_lite.results import write_record

RUN = runs.Run("mt", "full", 0, "tile", printed=True)
DATASET = SimpleNamespace(name="mt", split="tile", digest="d0")


def record(**changes):
    return a_record(config=Config.profile("full", seed=0).to_dict(), **changes)


def chapter(*outputs):
    cells = [
        new_markdown_cell("# Train\n\nThe data lie in /home/me/data."),
        new_code_cell('data_root = ""', metadata={"tags": ["parameters"]}),
        new_code_cell('# Parameters\ndata_root = "/home/me/data"', metadata={"tags": [INJECTED]}),
        new_code_cell("write()", id="record-write", outputs=list(outputs)),
    ]
    return new_notebook(cells=cells)


def test_a_run_is_up_to_date_with_a_record_of_its_configuration_on_its_files(tmp_path):
    assert not runs.up_to_date(RUN, DATASET, tmp_path)
    write_record(tmp_path, record())
    assert runs.up_to_date(RUN, DATASET, tmp_path)
    assert not runs.up_to_date(replace(RUN, seed=1), DATASET, tmp_path)
    assert not runs.up_to_date(replace(RUN, profile="fast"), DATASET, tmp_path)


@pytest.mark.parametrize("change", [{"digest": "d1"}, {"split": "published"}, {"name": "aitex"}])
def test_a_record_on_other_files_does_not_count(tmp_path, change):
    write_record(tmp_path, record())
    assert not runs.up_to_date(RUN, SimpleNamespace(**{**vars(DATASET), **change}), tmp_path)


@pytest.mark.parametrize("change", [{"epochs": 999}, {"a_setting_that_is_no_more": 1}])
def test_a_record_of_another_configuration_does_not_count(tmp_path, change):
    old = record()
    write_record(tmp_path, old | {"config": old["config"] | change})
    assert not runs.up_to_date(RUN, DATASET, tmp_path)


def test_a_page_has_a_heading_of_its_own_and_nobody_s_folder():
    first, declared, injected, _ = runs.as_page(chapter(), RUN, "/home/me/data").cells
    heading = "# Printed run: mt, split 'tile', seed 0"
    assert first.source == f"{heading}\n\nThe data lie in /home/me/data."  # what the chapter says stays
    assert declared.source == 'data_root = ""'
    assert injected.source == '# Parameters\ndata_root = "path/to/data"'


def test_a_page_tells_no_dates():
    ran = chapter()
    ran.cells[3].metadata |= {"papermill": {"start_time": "now"}, "execution": {"shell.execute_reply": "now"}}
    page = runs.as_page(ran, RUN, "")
    assert "now" not in nbformat.writes(page)


def test_a_page_of_a_run_without_split_and_folder_changes_in_its_heading_only():
    page, source = runs.as_page(chapter(), runs.Run("textures", "full", 2), ""), chapter()
    assert page.cells[0].source.startswith("# Printed run: textures, seed 2\n")
    assert [cell.source for cell in page.cells[1:]] == [cell.source for cell in source.cells[1:]]


def test_files_are_named_by_data_set_split_profile_and_seed():
    assert (RUN.name, RUN.page) == ("mt-tile-full-seed0", "mt_tile_full_seed0.ipynb")
    several = runs.Run("mt+aitex+textures", "full", 1)
    assert (several.name, several.page) == (
        "mt+aitex+textures-full-seed1",
        "mt_aitex_textures_full_seed1.ipynb",
    )


def test_a_finished_run_leaves_its_record_and_where_asked_for_its_page(tmp_path, monkeypatch):
    work, given = tmp_path / "work", {}

    def execute(source, copy, parameters, **_):
        given.update(parameters, source=Path(source).name)
        (work / "records").mkdir(parents=True, exist_ok=True)
        (work / "records" / "mt.json").write_text("{}")
        nbformat.write(chapter(new_output("stream", text="records/mt.json: written")), copy)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setattr(runs, "WORK", work)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    for folder in ("records", "runs"):
        (tmp_path / "book" / folder).mkdir(parents=True)
    runs.execute(replace(RUN, printed=False), "/home/me/data", tmp_path / "book")
    assert given == {
        "source": "30_train.ipynb",
        "dataset": "mt",
        "profile": "full",
        "seed": 0,
        "split": "tile",
        "out": "work",
        "data_root": "/home/me/data",
    }
    assert (tmp_path / "book" / "records" / "mt.json").read_text() == "{}"
    assert not list((tmp_path / "book" / "runs").iterdir())
    runs.execute(RUN, "/home/me/data", tmp_path / "book")
    page = nbformat.read(tmp_path / "book" / "runs" / RUN.page, as_version=4)
    assert page.cells[0].source.startswith("# Printed run: mt")


def test_the_chapter_is_told_of_a_folder_unless_the_set_is_drawn():
    assert RUN.parameters("/data")["data_root"] == "/data"
    assert replace(RUN, dataset="mt+textures").parameters("/data")["data_root"] == "/data"
    assert "data_root" not in replace(RUN, dataset="textures").parameters("/data")
    assert "data_root" not in RUN.parameters("")


def test_runs_that_are_absent_done_or_fail_do_not_keep_others_from_running(monkeypatch, capsys):
    found = [runs.Run(name, "full", 0) for name in ("absent", "done", "broken", "due")]
    executed = []

    def opened(name, *_):
        if name == "absent":
            raise FileNotFoundError("put it there")
        return SimpleNamespace(name=name)

    def execute(run, *_):
        executed.append(run.dataset)
        if run.dataset == "broken":
            raise RuntimeError("no memory")
        return Path("record.json")

    monkeypatch.setattr(runs, "declared", lambda: found)
    monkeypatch.setattr(runs, "open_declared", opened)
    monkeypatch.setattr(runs, "up_to_date", lambda run, *_: run.dataset == "done")
    monkeypatch.setattr(runs, "execute", execute)
    assert runs.main() == 1  # one has failed
    assert executed == ["broken", "due"]
    out, err = capsys.readouterr()
    assert "absent, passed over (put it there)" in out and "done-full-seed0: up to date" in out
    assert "failed: no memory" in err and "record.json after" in out
    assert runs.main(only="due") == 0 and executed[2:] == ["due"]
