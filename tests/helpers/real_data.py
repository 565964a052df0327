"""Where the real data sets and reference checkpoints are, if they are here; NETBUILD_DATA names the data sets."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[3] / "shared/data"
DATA = Path(os.environ.get("NETBUILD_DATA") or _BESIDE)
CHECKPOINTS = DATA.parent / "golden/checkpoints"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="neither NETBUILD_DATA nor ../shared/data holds the real data sets"
)
needs_checkpoints = pytest.mark.skipif(
    not (DATA.is_dir() and CHECKPOINTS.is_dir()), reason="there are no reference checkpoints beside the real data sets"
)
