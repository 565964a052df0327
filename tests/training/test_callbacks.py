"""Callbacks of a run: when they are called, where they come from, and that their state is resumed."""

from types import SimpleNamespace

import pytest
import torch
from test_loop import trainer

import netbuild
from netbuild.errors import NetbuildError
from netbuild.training import callbacks as callbacks_module
from netbuild.training.callback_list import CallbackList
from netbuild.training.callbacks import Callback, callbacks_of_file, installed_callbacks
from netbuild.training.progress import ProgressBar

HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class Calls(Callback):
    """Counts the hooks that were called; the count is its state."""

    def __init__(self):
        self.calls = []

    def state_dict(self):
        return {"calls": list(self.calls)}

    def load_state_dict(self, state):
        self.calls = state["calls"]


for hook in HOOKS:
    setattr(Calls, hook, lambda self, *_, hook=hook: self.calls.append(hook))

EPOCH = [
    "on_epoch_begin", "on_batch_begin", "on_batch_end", "on_validation_begin", "on_validation_batch",
    "on_validation_end", "on_epoch_end", "on_save",
]  # fmt: skip


def test_the_bar_names_the_epochs_validation_and_the_plots_at_the_end(tmp_path):
    run, bar, shown = trainer(tmp_path / "run", epochs=2), ProgressBar(), []
    run.progress.epoch = 2
    bar.bar, bar.line = SimpleNamespace(update=lambda _, **fields: shown.append(fields)), 0
    bar.on_validation_begin(run)
    bar.on_validation_batch(1, 4)
    bar.on_validation_end(run, {})
    bar.on_validation_batch(2, 3)
    found = [(fields["description"], fields["completed"], fields["total"]) for fields in shown]
    assert found == [("epoch 2/2 validation", 1, 4), ("plots", 2, 3)]


def test_hooks_are_called_in_order_state_is_resumed_and_weights_stay_equal(tmp_path):
    plain = trainer(tmp_path / "plain", epochs=2)
    plain.run()
    seen = trainer(tmp_path / "seen", epochs=2)
    calls = Calls()
    seen.callbacks += [calls, Calls()]
    seen.run()
    assert list(dict.fromkeys(calls.calls)) == ["on_run_begin", *EPOCH, "on_run_end"]
    assert calls.calls.count("on_batch_begin") == calls.calls.count("on_batch_end") == 2 * len(seen.train)
    for key, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, seen.network.state_dict()[key]), key

    again = trainer(tmp_path / "seen", epochs=3)
    resumed = Calls()
    again.callbacks += [resumed, Calls()]
    again.resume()
    assert resumed.calls == calls.calls[:-2]  # the state was saved before the last on_save and on_run_end
    assert set(again.progress.callbacks) == {"Calls", "Calls-2"}


class Stop(Callback):
    def on_epoch_end(self, run, measures, best):
        run.stop = True


class Failing(Callback):
    error = None

    def on_batch_end(self, run, epoch, number, losses, rate):
        raise ZeroDivisionError

    def on_run_end(self, run, error):
        self.error = error


class Unsavable(Callback):
    def state_dict(self):
        return {"what": object()}


def test_a_callback_can_stop_a_run_and_on_run_end_gets_the_error(tmp_path):
    run = trainer(tmp_path / "stopped")
    run.callbacks.append(Stop())
    assert run.run().epoch == 1
    failing = Failing()
    run = trainer(tmp_path / "failed")
    run.callbacks.append(failing)
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert isinstance(failing.error, ZeroDivisionError)
    with pytest.raises(NetbuildError, match="the state of the callback Unsavable is not JSON data"):
        CallbackList([Unsavable()]).state_dict()


FILE = """
from pathlib import Path
from netbuild.training.callbacks import Callback

class Note(Callback):
    def on_scan_end(self, report):
        self.pictures = sum(split.counts["pictures"] for split in report.splits.values())

    def on_run_end(self, run, error):
        (run.folder / "note.txt").write_text(f"{self.pictures} pictures, {run.progress.epoch} epochs")
"""


@pytest.mark.slow
def test_a_file_of_callbacks_by_the_command_and_from_python(tmp_path, cli):
    (tmp_path / "note.py").write_text(FILE)
    arguments = "train lenet5.yaml --data digits --epochs 1 --device cpu --workers 0 --imgsz 32 -O plots=false".split()
    out = tmp_path / "run"
    done = cli(*arguments, "--out", out, "--callbacks", tmp_path / "note.py")
    assert done.code == 0, done.err
    assert (out / "note.txt").read_text().endswith("pictures, 1 epochs")
    calls = Calls()
    netbuild.train(resume=out, epochs=2, callbacks=[calls])
    assert calls.calls.count("on_save") == 1
    assert {"on_scan_picture", "on_scan_end"} <= set(calls.calls)


def test_files_and_packages_without_a_callback_are_refused(tmp_path, monkeypatch):
    (tmp_path / "none.py").write_text("from netbuild.training.callbacks import Callback\n")
    with pytest.raises(NetbuildError, match="defines no subclass"):
        callbacks_of_file(tmp_path / "none.py")
    with pytest.raises(NetbuildError, match="no such file"):
        callbacks_of_file(tmp_path / "missing.py")
    (tmp_path / "needs.py").write_text(
        "from netbuild.training.callbacks import Callback\n\nclass Needs(Callback):\n    def __init__(self, x): pass\n"
    )
    with pytest.raises(NetbuildError, match="Needs cannot be constructed"):
        callbacks_of_file(tmp_path / "needs.py")

    class Point:
        name, value = "mine", "package:Mine"

        def __init__(self, cls):
            self.load = lambda: cls

    monkeypatch.setattr(
        callbacks_module, "entry_points", lambda group: [Point(Calls)] if group == "netbuild.callbacks" else []
    )
    assert [type(callback) for callback in installed_callbacks()] == [Calls]
    monkeypatch.setattr(callbacks_module, "entry_points", lambda group: [Point(int)])
    with pytest.raises(NetbuildError, match="'mine' = package:Mine is no subclass"):
        installed_callbacks()
