"""A few of the embedded scenes in place of all 600, for tests that train on them."""

import numpy as np
from PIL import Image

from netbuild.author.zoo import load_entries
from netbuild.data.shapes import files
from netbuild.grammar.locate import scaled_name
from netbuild.tasks import TASKS, find


def write_few_scenes(cache, train=8, val=4):
    """Write the embedded sets of shapes with so many pictures into a cache folder, where commands find them."""
    before = files.COUNTS, files.TABLE_COUNTS
    files.COUNTS = files.TABLE_COUNTS = {"train": train, "val": val}
    writers = {"shapes": files.write_sets, files.TABLES_FOLDER: files.write_tables}
    try:
        for name, write in writers.items():
            (cache / f"{name}-{files.LAYOUT}").mkdir(parents=True)
            write(cache / f"{name}-{files.LAYOUT}")
    finally:
        files.COUNTS, files.TABLE_COUNTS = before


def smallest_network(task, folder):
    """The packaged network of a task with the fewest parameters; where there is none a classifier with that task."""
    if task == "restore":  # its networks take small pictures
        return "espcn.yaml"
    sizes = {
        scaled_name(entry.name, scale): size[0]
        for entry in load_entries()
        for scale, size in entry.sizes.items()
        if entry.task == task and entry.imgsz[0] > 160
    }
    if sizes:
        return f"{min(sizes, key=sizes.get)}.yaml"
    (folder / f"{task}.yaml").write_text(f"extends: resnet18.yaml\ntask: {task}\n")
    return folder / f"{task}.yaml"


BACKBONE = """\
nc: 6
imgsz: 64
kpt_shape: [4, 3]
anchors: [[8,8, 12,12, 18,18], [16,24, 30,30, 48,48]]
HEADS
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2], fine]
  - [-1, 1, Conv, [32, 3, 2], coarse]
"""
# Heads that have a loss of their own: rows, and the embedded set that they learn from.
ROWS = {
    "anchors": "  - [[fine, coarse], 1, AnchorDetect, [nc, anchors], old]\n",
    "auxiliary": "  - [[fine, coarse, fine, coarse], 1, DualDDetect, [nc], auxiliary]\n",
    "queries": "  - [[fine, coarse], 1, RTDETRDecoder, [nc, 32, 20, 4, 4, 2], detr]\n",
}
MIXED = "heads: {old: {row: old}, detr: {row: detr, weight: 0.5}, pose: {row: pose}}"
AUTOENCODER = """\
task: autoencode
imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, nn.ConvTranspose2d, [8, 3, 2, 2]]
"""
POSE = "  - [[fine, coarse], 1, Pose, [nc, kpt_shape], pose]\n"


def scene_tasks():
    """The names of the tasks that learn from embedded pictures of scenes; what learns from videos has own tests."""
    pictures = {*files.SETS} - {files.VIDEOS}
    return [name for name in TASKS.names() if find(name).trainable and find(name).embedded in pictures]


VARIATIONAL = """\
task: vae
imgsz: 64
layers:
  - [-1, 1, Conv, [4, 3, 8]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, {out_features: 4}, moments]
  - [-1, 1, Reparameterize, [], code]
  - [-1, 1, nn.Linear, {out_features: 3072}]
  - [-1, 1, nn.Unflatten, [1, [48, 8, 8]]]
  - [-1, 1, nn.PixelShuffle, [4]]
  - [-1, 1, nn.Upsample, [null, 2]]
  - [[-1, moments], 1, Variational, [bernoulli]]
"""
DIFFUSION = """\
task: diffuse
inputs: {image: [3, 64, 64], time: [], label: []}
nc: 5
layers:
  - [time, 1, TimeEmbedding, [8]]
  - [label, 1, OneHot, [nc]]
  - [[-2, -1], 1, Concat, []]
  - [-1, 1, nn.Linear, {out_features: 8}]
  - [-1, 1, nn.Unflatten, [1, [8, 1, 1]], told]
  - [image, 1, nn.Conv2d, [3, 8, 3, 1, 1]]
  - [[-1, told], 1, Add, []]
  - [-1, 1, nn.SiLU, []]
  - [-1, 1, nn.Conv2d, [8, 3, 3, 1, 1]]
"""
# Tasks that learn from pictures in folders here; their own embedded set is too large for these tests.
OF_FOLDERS = {"classify": "", "autoencode": AUTOENCODER, "vae": VARIATIONAL, "diffuse": DIFFUSION}

# What is trained, resumed and so on: each task with embedded scenes, further losses, and networks of several heads.
CASES = [*scene_tasks(), *ROWS, "detect", "several", "mixed", *OF_FOLDERS]


def open_case(name, folder):
    """The network and the data of one of `CASES`, whose files are written into a folder."""
    text, data = OF_FOLDERS.get(name, ""), "shapes-segment"
    if name in ROWS:
        text = BACKBONE.replace("HEADS", "") + ROWS[name]
    elif name == "mixed":
        text, data = BACKBONE.replace("HEADS", MIXED) + ROWS["anchors"] + ROWS["queries"] + POSE, "shapes-pose"
    elif name in OF_FOLDERS:
        data = folder / "classes"
        write_class_folders(data)
    elif name != "detect":
        data = find(name).embedded
    if not text:
        return smallest_network(name, folder), data
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml", data


def write_class_folders(folder, train=12, val=5):
    """Write pictures of noise of two classes, whose brightness differs."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            kind = number % 2
            path = folder / split / ("dark", "bright")[kind] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(100 * kind, 100 * kind + 150, (64, 64, 3), np.uint8)).save(path)
