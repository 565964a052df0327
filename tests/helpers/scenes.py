"""A few of the embedded scenes in place of all 600, for tests that train on them."""

from netbuild.author.zoo import load_entries
from netbuild.data.shapes import files
from netbuild.grammar.locate import scaled_name


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
