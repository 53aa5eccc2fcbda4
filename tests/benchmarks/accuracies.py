"""Average precision of a model of any kind on some photographs."""

from collections.abc import Sequence
from pathlib import Path

from mrcnn.data.coco import CocoDataset
from mrcnn.evaluation import Evaluation, detect, evaluate_detections, map_labels
from mrcnn.opening import open_model


def evaluate(model: Path, data: Path, indices: Sequence[int]) -> Evaluation:
    """COCO's figures for the images `indices` of the folder `data`."""
    dataset = CocoDataset(data / "instances.json", masks=False)
    with open_model(model, device="cpu") as opened:
        ids, _ = map_labels(opened.description.class_names, dataset)
        results, _ = detect(opened.predictor, dataset, indices, ids, progress=False)
    return evaluate_detections(dataset.ground_truth(indices), results)
