"""What a step costs the host beside its network: `fit`, with all that it watches, beside a bare loop.

    python -m benchmarks.loop_overhead [--rounds 15] [--batch_size 16] [--steps 300]

Both train a network that costs next to nothing, with the optimizer and the augmentation of configs/resnet20.yaml, on
random images in small batches. A CPU with a real network to train does not notice the difference; a GPU that has
finished waits for it.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from benchmarks.measure import noise, on_this, parser, positive, ratio, save
from benchmarks.training_loop import RECIPE, in_turns
from cifar_lit.classifier import Classifier
from cifar_lit.console import hush_libraries

# Batches of which a step does not fetch and augment for long.
BATCH_SIZE, STEPS, IMAGES = 16, 300, 20_000


class MeanColour(nn.Module):
    """Maps images (N, 3, H, W) to logits (N, num_classes) by their mean colour.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


class MeanColourClassifier(Classifier):
    """Trains `MeanColour`.

    Args:
        num_classes: Number of classes.
        **kwargs: Those of `Classifier`.
    """

    def __init__(self, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(net=MeanColour(num_classes), num_classes=num_classes, **kwargs)


def measure(rounds: int, batch_size: int = BATCH_SIZE, steps: int = STEPS, images: int = IMAGES) -> dict[str, Any]:
    """Milliseconds of a step of each, their medians, and the median over rounds of what `fit` adds.

    Args:
        rounds: Turns of each.
        batch_size: Images of a step.
        steps: Of a turn.
        images: In the data set.
    """
    options = [f"--config={RECIPE}", *noise(images), f"--data.batch_size={batch_size}"]
    options += ["--model=benchmarks.loop_overhead.MeanColourClassifier"]
    speeds = in_turns(options, rounds, steps, {})
    of_step = {name: [1e3 * batch_size / speed for speed in of_turns] for name, of_turns in speeds.items()}
    added = [a - b for a, b in zip(of_step["fit"], of_step["bare loop"], strict=True)]
    return {
        "what": f"a step with a network that costs next to nothing, batch {batch_size}, in steady state; crop and flip",
        "median_milliseconds": {name: round(statistics.median(values), 3) for name, values in of_step.items()},
        "milliseconds": {name: [round(value, 3) for value in values] for name, values in of_step.items()},
        "fit_adds_milliseconds": round(statistics.median(added), 3),
        # Of times, not of speeds as in `training_loop`.
        "fit_over_bare_loop": round(ratio(speeds, "bare loop", "fit"), 3),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/loop_overhead-<device>.json``."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=positive, default=15)
    options.add_argument("--batch_size", type=positive, default=BATCH_SIZE)
    options.add_argument("--steps", type=positive, default=STEPS, help="steps of a turn")
    options.add_argument("--images", type=positive, default=IMAGES, help="in the data set")
    given = options.parse_args(args)
    hush_libraries()
    figures = measure(given.rounds, given.batch_size, given.steps, given.images)
    print({key: figures[key] for key in ("median_milliseconds", "fit_adds_milliseconds", "fit_over_bare_loop")})
    save(on_this("loop_overhead"), figures, given.output)


if __name__ == "__main__":
    main()
