"""A run can be killed and go on, and several processes train as one does."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import CONFIG, IMAGES, fit

from mssf_lite import MSSF
from mssf_lite.training import losses

ROOT = Path(__file__).resolve().parents[1]


def start(script: str, *arguments: object, command: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen:
    """A script in a process of its own, with the small run at hand."""
    path = Path(str(arguments[0])).with_suffix(".py")
    path.write_text("import sys\nfrom small_run import *\n" + textwrap.dedent(script))
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([*command, str(path), *map(str, arguments)], env=env)


def numbers(model):
    return torch.cat([p.detach().flatten() for p in model.flow.parameters()])


@pytest.fixture(scope="module")
def whole():
    return fit()


def test_killed_run_goes_on_to_the_result_of_a_whole_one(tmp_path, whole):
    state = tmp_path / "state.pt"
    slow = """
        import time
        model = MSSF(CONFIG)
        for progress in model.fit(IMAGES[:11], IMAGES[11:], resume=sys.argv[1]):
            time.sleep(600)  # the state of the first epoch is written by now
    """
    process = start(slow, state)
    try:
        for _ in range(600):
            if state.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait()
    assert state.exists()
    model, history = fit(state)
    assert torch.equal(numbers(model), numbers(whole[0]))
    assert [replace(p, seconds=0) for p in history] == [replace(p, seconds=0) for p in whole[1]]
    assert not state.exists()  # a finished run leaves none


def test_time_before_the_kill_counts(tmp_path):
    state = tmp_path / "state.pt"
    _, first = fit(state, epochs=2)
    _, history = fit(state)
    assert [p.seconds for p in history[:2]] == [p.seconds for p in first]
    assert history[2].seconds > first[1].seconds


def test_state_of_another_run_is_refused(tmp_path):
    state = tmp_path / "state.pt"
    fit(state, epochs=1)
    with pytest.raises(ValueError, match="is of another run: delete it"):
        fit(state, model=MSSF(replace(CONFIG, seed=1)))
    assert state.exists()


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04"])
def test_damaged_state_is_refused_by_name(tmp_path, content):
    state = tmp_path / "state.pt"
    state.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt is no state of a training run"):
        fit(state)


def test_two_processes_train_as_one_does(tmp_path, whole):
    out = tmp_path / "flow.pt"
    script = """
        from mssf_lite import parallel
        rank, world = parallel.join()
        assert world == 2
        model, history = fit()
        numbers = torch.cat([p.detach().flatten() for p in model.flow.parameters()])
        torch.save({"numbers": numbers, "nll": [p.nll for p in history]}, sys.argv[1] + str(rank))
        torch.distributed.destroy_process_group()
    """
    port = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    torchrun = (sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2", *port)
    assert start(script, out, command=torchrun).wait(240) == 0
    for rank in range(2):
        found = torch.load(f"{out}{rank}", weights_only=True)
        torch.testing.assert_close(found["numbers"], numbers(whole[0]), rtol=1e-3, atol=1e-4)
        assert found["nll"] == pytest.approx([p.nll for p in whole[1]], rel=1e-4)


def test_half_precision_moves_the_losses_by_rounding_only(whole):
    model = whole[0]
    x = model.whitened(IMAGES[:4])
    keep = [torch.ones(len(f), *f.shape[2:], dtype=torch.bool) for f in x]
    full = losses(model, x, x, keep, keep)
    with torch.autocast("cpu", torch.bfloat16):
        half = losses(model, x, x, keep, keep)
    for a, b in zip(full, half, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=0.02, atol=0.01)
    assert not torch.equal(full[0], half[0])  # it was indeed half precision
