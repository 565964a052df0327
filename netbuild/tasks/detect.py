"""Detection: boxes and classes, learnt by the loss that the head names."""

from collections.abc import Mapping
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.layers.heads.base import traits
from netbuild.system.packages import package
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter


class DetectTask(BoxTask):
    """Boxes and classes, see `BoxTask`."""

    name = "detect"
    embedded = "digits-detect"

    def make_nms_filter(self, given: Mapping[str, Any]) -> Filter:
        """Return the filter of these options.

        Raises:
            NetbuildError: if the head needs no suppression, or for a wrong value.
            MissingExtraError: without torchvision, whose suppression the file's is compared with.
        """
        if traits(self.head).ranks:
            message = f"--nms: the head {type(self.head).__name__} gives each object once, it needs no suppression"
            raise NetbuildError(message, hint="leave it out")
        package("torchvision.ops", "train")
        return Filter(**self.options(given))
