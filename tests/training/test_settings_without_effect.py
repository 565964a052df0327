"""Each task states exactly the settings that change nothing for it: they are tried one by one, and refused if given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.scenes import write_few_scenes

from netbuild.data import open_data, scan
from netbuild.data.shapes import files
from netbuild.errors import NetbuildError
from netbuild.feed.loader import FeedOptions
from netbuild.settings import Settings
from netbuild.tasks import TASKS, find
from netbuild.training.parts import check_settings

BASE = {"epochs": 20, "crop": False, "policy": "off", "translate": 0.0, "scale": 0.0, "flip_lr": 0.0, "mosaic": 0.0}
BASE |= {"degrees": 0.0, "shear": 0.0, "erasing": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
BASE |= {"patches": 1}
TRIED = {
    **{"label_smoothing": 0.1, "class_weights": 1.0, "mosaic": 1.0, "mixup": 1.0, "cutmix": 1.0, "copy_paste": 1.0},
    **{
        "degrees": 40.0,
        "translate": 0.4,
        "scale": 0.5,
        "shear": 20.0,
        "perspective": 0.3,
        "rot90": 1.0,
        "hsv_h": 0.5,
        "hsv_s": 0.9,
        "hsv_v": 0.9,
    },
    **{"flip_lr": 1.0, "flip_ud": 1.0, "crop": True, "policy": "trivialaugment", "erasing": 1.0, "close_mosaic": 20},
    **{"rect": False, "conf": 0.3, "iou": 0.3, "max_det": 7, "regression_loss": "l1"},
}
PICTURES = {*files.SETS} - {files.VIDEOS}  # instead of videos, pairs of crops are cut from single pictures
INPUTS = {"track": (("exemplar", (3, 31, 31)), ("search", (3, 63, 63)))}
COMBINING = ("mosaic", "close_mosaic", "mixup", "cutmix", "copy_paste")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Opens an embedded set of few scenes, in each its smallest object, which has an outline."""
    cache = tmp_path_factory.mktemp("cache")
    write_few_scenes(cache, train=4, val=1)

    def opened(name):
        if name in files.TABLES:
            dataset = open_data(cache / f"{files.TABLES_FOLDER}-{files.LAYOUT}" / name)
        else:
            folder = cache / f"shapes-{files.LAYOUT}" / (name if name in PICTURES else "shapes")
            dataset = open_data(folder / "data.yaml")
        found = scan(dataset, splits=["train"], cache=False).samples("train")
        if name in files.TABLES:
            return dataset, found
        small = [s.only(np.argsort(np.argsort(s.boxes[:, 3:].prod(1))) < 1) for s in found]  # CutMix needs free places
        outlined = [replace(s, outlines=s.outlines or tuple((box_outline(row),) for row in s.boxes)) for s in small]
        return dataset, [replace(s, label=0) for s in outlined]

    return opened


def box_outline(row):
    return row[1:3] + row[3:] / 2 * [[-1, -1], [1, -1], [1, 1], [-1, 1]]


def trained_tasks():
    return [name for name in TASKS.names() if find(name).trainable]


def make_task(name, dataset, settings=None, samples=()):
    cls = find(name)
    head = torch.nn.Identity()
    head.mean, head.deviation = torch.zeros(dataset.nc), torch.ones(dataset.nc)
    head.nc, head.box_form, head.stride, head.ranks = dataset.nc, "corners", [8.0], lambda: False
    head.extra = (4, 3) if name == "pose" else ()
    options = cls.options_of(settings, samples, dataset.nc) if settings else {}
    return cls(head, list(dataset.names), **cls.data_options(dataset), **options)


def describe_run(name, dataset, samples, **flags):
    """All that settings can change for a task: the samples of training and validation, options of task and decoding."""
    settings = Settings(**(BASE | {"close_mosaic": 0} | flags))
    task = make_task(name, dataset, settings, samples)
    found = [task.decode_options(settings), find(name).options_of(settings, samples, dataset.nc)]
    for learning in (True, False):
        options = FeedOptions((64, 64), 3, dataset.nc, None, settings, learning, 2, fitting=task.fitting)
        options = replace(options, inputs=INPUTS.get(name, ()))
        source, collate = task.feed(samples, options)
        for epoch in (0, 19):
            items = [source.get(i, np.random.default_rng(i), epoch) for i in range(len(source))]
            found.append(collate(items))
    return repr(freeze(found))


def freeze(value):
    """Data in which arrays and tensors are replaced by their bytes."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return (tuple(value.shape), np.asarray(value).tobytes())
    if isinstance(value, dict):
        return {key: freeze(part) for key, part in value.items()}
    return [freeze(part) for part in value] if isinstance(value, list | tuple) else value


# One task of each kind of source of samples; the others are in the slow run.
OFTEN = ("classify", "segment", "depth", "track", "restore", "generate")


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in trained_tasks()]
)
def test_a_task_states_the_settings_that_change_nothing(scenes, name):
    dataset, samples = scenes(find(name).embedded)
    unused, before = set(find(name).unused_settings), describe_run(name, dataset, samples)
    without_effect = set()
    for setting, value in TRIED.items():
        flags = {setting: value}
        if setting == "close_mosaic":  # it ends the mosaic that there is
            flags["mosaic"] = 1.0
        compared = before if setting != "close_mosaic" else describe_run(name, dataset, samples, mosaic=1.0)
        # Pictures that a task must not combine are not tried.
        if (setting in unused and setting in COMBINING) or describe_run(name, dataset, samples, **flags) == compared:
            without_effect.add(setting)
    assert without_effect == unused & TRIED.keys()


@pytest.mark.parametrize("name", trained_tasks())
def test_settings_without_effect_are_refused_by_their_default(scenes, name):
    dataset, _ = scenes(find(name).embedded)
    task, defaults = make_task(name, dataset), Settings()
    check_settings(task, defaults, defaults)
    for setting in task.unused_settings:
        value = TRIED.get(setting, True if setting == "allow_background" else 0.3)
        with pytest.raises(NetbuildError, match=f"{setting} has no effect for the task '{name}'") as caught:
            check_settings(task, replace(defaults, **{setting: value}), defaults)
        assert caught.value.hint == "leave it out"


def test_settings_that_others_switch_off_are_refused(scenes):
    task = make_task("classify", scenes("shapes")[0])
    defaults = Settings().with_augmentation_defaults("pictures", "classify")
    for setting, reason in (("hsv_h", "with policy=randaugment, only with off"), ("shear", "with crop=true, only")):
        with pytest.raises(NetbuildError, match=f"{setting} has no effect {reason}"):
            check_settings(task, replace(defaults, **{setting: 0.3}), defaults)
    freed = replace(defaults, crop=False, policy="off", shear=0.3, hsv_h=0.3)
    check_settings(task, freed, defaults)


def test_a_head_without_suppression_has_no_threshold_of_it(scenes):
    task, defaults = make_task("detect", scenes("shapes")[0]), Settings()
    check_settings(task, replace(defaults, iou=0.5), defaults)
    task.head.ranks = lambda: True
    with pytest.raises(NetbuildError, match="iou has no effect without suppression"):
        check_settings(task, replace(defaults, iou=0.5), defaults)


@pytest.mark.parametrize(("name", "option"), [("conf", "conf=0.3"), ("rect", "rect=false")])
def test_validation_refuses_them_too(cli, tmp_path, name, option):
    assert cli("build", "lenet5.yaml", "-o", tmp_path / "net.safetensors").code == 0
    done = cli("val", tmp_path / "net.safetensors", "--data", "digits", "-Oworkers=0", "-O", option)
    assert (done.code, f"{name} has no effect for the task 'classify'" in done.err) == (2, True)
