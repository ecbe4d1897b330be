"""A run's learning curves, as its folder has them."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_lit.logger import EVALUATION

Curves = dict[str, list[tuple[int, float]]]


def learning_curves(run: Path) -> Curves:
    """A run's curves by name, such as ``train/loss``, as pairs of step and value; none where it logged elsewhere.

    Those of single classes stay in TensorBoard, on a chart each.
    """
    curves: Curves = {}
    for split in ("train", "val"):
        points: dict[str, dict[int, float]] = {}
        # A later evaluation, maybe of other images, is no part of how it learnt.
        files = (file for file in (run / split).glob("events.*") if not file.name.endswith(EVALUATION))
        # A run that went on from an earlier checkpoint did so in a file whose name has a later time.
        for file in sorted(files):
            events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
            for tag in (tag for tag in events.Tags()["scalars"] if "/" not in tag):
                new = {event.step: event.value for event in events.Scalars(tag)}
                # What was logged behind that checkpoint is of a history that was given up.
                points[tag] = {step: value for step, value in points.get(tag, {}).items() if step < min(new)} | new
        curves |= {f"{split}/{tag}": sorted(values.items()) for tag, values in sorted(points.items())}
    return curves
