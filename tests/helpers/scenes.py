"""A few of the embedded scenes in place of all 600, for tests that train on them."""

from netbuild.data.shapes import files


def write_few_scenes(cache, train=8, val=4):
    """Write the embedded sets of shapes with so many pictures into a cache folder, where commands find them."""
    counts, folder = files.COUNTS, cache / f"shapes-{files.LAYOUT}"
    files.COUNTS = {"train": train, "val": val}
    try:
        folder.mkdir(parents=True)
        files.write_sets(folder)
    finally:
        files.COUNTS = counts
