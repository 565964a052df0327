"""A few of the embedded scenes in place of all 600, for tests that train on them."""

from netbuild.author.zoo import load_entries
from netbuild.data.shapes import files
from netbuild.grammar.locate import scaled_name


def write_few_scenes(cache, train=8, val=4):
    """Write the embedded sets of shapes with so many pictures into a cache folder, where commands find them."""
    counts, folder = files.COUNTS, cache / f"shapes-{files.LAYOUT}"
    files.COUNTS = {"train": train, "val": val}
    try:
        folder.mkdir(parents=True)
        files.write_sets(folder)
    finally:
        files.COUNTS = counts


def smallest_network(task, folder):
    """The packaged network of a task with the fewest parameters; where there is none a classifier with that task."""
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
