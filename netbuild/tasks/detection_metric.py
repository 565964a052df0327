"""The metric of detection: mAP by COCO's definition, precision, recall, F1, and the confusion matrix of boxes."""

from netbuild.tasks.coco_evaluation import BoxEvaluation
from netbuild.tasks.object_metric import ObjectMetric


class DetectionMetric(ObjectMetric):
    """COCO's figures, precision, recall and F1 of boxes, see `ObjectMetric`."""

    def evaluations(self) -> list[BoxEvaluation]:
        """Return the evaluation of boxes by their IoU."""
        return [BoxEvaluation(self.names, self.detections, self.truths)]
