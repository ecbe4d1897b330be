"""Loss and accuracy of a split, accumulated on the device and read once an epoch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

# Top-5 says something only where a guess of five names does not cover half of the classes.
TOP5_FROM_CLASSES = 11

# What has been counted: the sums of a metric, by its name and theirs.
Counted = dict[str, dict[str, Tensor]]

# Losses below it are counted in units of 2**-30, so that 2**25 of them fit into 63 bits.
COUNTED_EXACTLY_BELOW, UNITS = 2.0**8, 2**30


class CountedInPlace(Metric):
    """A metric whose sums are added to in place: a module looks long at what is set on it."""

    def reset(self) -> None:
        """Begins anew, with sums that may be added to anywhere.

        Those made in inference mode, as at the end of `Trainer.validate`, may not outside of it: in a `fit` after that.
        """
        with torch.inference_mode(False):
            super().reset()


class MeanLoss(CountedInPlace):
    """Mean loss of images, on any number of ranks the same to the last digit.

    A sum of floats depends on its order, and so on how images are shared over batches and ranks. A sum of integers does
    not: losses of single images are counted in units of 2**-30. (float64 would do, but not every device has it.)

    torchmetrics' MeanMetric either looks for NaN, which waits for the device at every step, or with
    ``nan_strategy="disable"`` forgets the weights (1.9).
    """

    full_state_update = False
    units: Tensor
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("units", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Moves, but keeps counting in float32 where a module is turned to 16 bits: these would soon add nothing."""
        super()._apply(fn, *args, **kwargs)
        if self.total.dtype in (torch.float16, torch.bfloat16):
            self.total, self._defaults["total"] = self.total.float(), torch.tensor(0.0, dtype=torch.float32)
        return self

    def update(self, loss: Tensor, images: int | None = None) -> None:
        """Counts losses (n,) of single images, or quicker and not to the last digit, the mean loss () of ``images``."""
        if images is None:
            exact = loss.abs() < COUNTED_EXACTLY_BELOW  # NaN is not
            self.units += (loss.where(exact, 0) * UNITS).round().long().sum()
            self.total += loss.where(~exact, 0).sum()
            self.count += len(loss)
        else:
            self.total.add_(loss.to(self.total.dtype) * images)
            self.count.add_(images)

    def compute(self) -> Tensor:
        """The mean so far."""
        return (self.units / UNITS + self.total) / self.count


class TopAccuracy(CountedInPlace, MulticlassAccuracy):
    """Share of images whose class is among the highest logits, counted in few operations: six instead of eighteen.

    States, in sum, and figure are those of torchmetrics' micro average of the first guesses, but for ``fp`` and ``tn``,
    which it has no use for and which stay 0.

    Args:
        num_classes: Number of classes.
        guesses: How many of the highest.
    """

    def __init__(self, num_classes: int, guesses: int = 1) -> None:
        # Validating arguments would read them back.
        super().__init__(num_classes, average="micro", top_k=guesses, validate_args=False)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts logits (n, num_classes) beside labels int64 (n,)."""
        tp: Any = self.tp
        fn: Any = self.fn
        if self.top_k == 1:
            right = (preds.argmax(dim=1) == target).sum()
        else:
            # Each class is guessed once. The states have a place for each class, and only their sum is asked for.
            right = (preds.topk(self.top_k, dim=1).indices == target[:, None]).sum()
            tp, fn = tp[:1], fn[:1]
        tp.add_(right)
        fn.add_(len(target) - right)


class Scores(nn.Module):
    """Mean loss and accuracy of a split, accumulated on the device and read once an epoch.

    Args:
        num_classes: Number of classes; from 11 on there is top-5 accuracy, too.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # Whether there is anything to log.
        self.has_counted = False
        self.loss = MeanLoss()
        self.accuracy = TopAccuracy(num_classes)
        self.accuracy_top5 = TopAccuracy(num_classes, guesses=5) if num_classes >= TOP5_FROM_CLASSES else None

    def count(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the logits (n, num_classes) of a batch with their plain loss, and gives these back."""
        self.update(F.cross_entropy(logits.float(), labels, reduction="none"), logits, labels)
        return logits

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch: its mean loss () or its images' (n,), logits (n, num_classes) and labels int64 (n,)."""
        if not self.has_counted:  # It takes longer to set than to ask.
            self.has_counted = True
        if len(labels) == 0:
            # A rank's share of a very small split; its mean loss is NaN.
            return
        self.loss.update(loss, len(labels) if loss.ndim == 0 else None)
        self.accuracy.update(logits, labels)
        if self.accuracy_top5 is not None:
            self.accuracy_top5.update(logits, labels)

    def named(self) -> dict[str, Metric]:
        """The metrics by the names that they are logged under."""
        metrics: dict[str, Metric | None] = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "accuracy_top5": self.accuracy_top5,
        }
        return {name: metric for name, metric in metrics.items() if metric is not None}

    def reset(self) -> None:
        """Begins anew."""
        self.has_counted = False
        for metric in self.named().values():
            metric.reset()

    def so_far(self) -> Counted:
        """What has been counted, for a checkpoint; nothing where nothing has."""
        counted = {}
        for name, metric in self.named().items() if self.has_counted else ():
            metric.persistent(True)
            # Copies, on the host: what is counted goes on.
            counted[name] = {key: value.detach().cpu().clone() for key, value in metric.state_dict().items()}
            # Scores are no weights: a model's state has none of them.
            metric.persistent(False)
        return counted

    def go_on_from(self, counted: Counted, has_counted: bool = True) -> None:
        """Takes up again what `so_far` gave.

        Args:
            counted: Of the ranks whose place this one takes; there may be none.
            has_counted: Whether any rank had counted something: then every rank logs, for the figures are of all.
        """
        self.has_counted = has_counted
        for name, metric in self.named().items():
            if name in counted:
                metric.persistent(True)
                # A metric takes a state as it comes, also from another device, and adds to it.
                state = {key: value.to(metric.device, copy=True) for key, value in counted[name].items()}
                metric.load_state_dict(state, strict=False)  # older checkpoints count the loss in floats alone
                metric.persistent(False)


def together(counted: Iterable[Counted]) -> Counted:
    """What several ranks have counted, as one would have."""
    sums: Counted = {}
    for rank in counted:
        for name, states in rank.items():
            own = sums.setdefault(name, {})
            own.update({key: own[key] + value if key in own else value for key, value in states.items()})
    return sums
