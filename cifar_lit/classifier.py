"""What every image classifier here has in common: loss, metrics, optimizer, schedule and steps."""

from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cifar_lit.classes import check_classes
from cifar_lit.compiling import CompilableModule, CompileMode
from cifar_lit.errors import UserError, check_choice, check_not_negative
from cifar_lit.optimizers import NesterovSGD, begin_momentum, made
from cifar_lit.plain import class_path_of, with_plain_values
from cifar_lit.ranks import several_ranks, share_of_ranks
from cifar_lit.resuming import ResumableModule
from cifar_lit.scheduling import ScheduleCallable, new_schedule, tell, validates_later
from cifar_lit.scores import Scores
from cifar_lit.stepping import check_length, seed_batch, seed_order, weight_in_step
from cifar_lit.views import VIEWS, Augmentation
from cifar_lit.weight_decay import Decayed, groups_by_decay

OptimizerCallable = Callable[[Iterable], Optimizer]
Batch = tuple[Tensor, Tensor]


class Classifier(CompilableModule, ResumableModule):
    """Trains and evaluates a network that maps images to logits.

    A subclass builds a network, passes it up, and says where Grad-CAM looks:

        class MyNet(Classifier):
            def __init__(self, width: int = 64, num_classes: int = 10, **kwargs):
                super().__init__(net=build(width, num_classes), num_classes=num_classes, **kwargs)

    Args:
        net: Maps normalised images, float (N, 3, H, W), to logits (N, num_classes).
        num_classes: Number of classes; taken from the data on the command line.
        optimizer: Given the parameters, makes the optimizer; its ``lr`` is the peak of the schedule. By default it is
            SGD with a rate of 0.1, Nesterov momentum of 0.9 and a weight decay of 5e-4.
        schedule: Given the optimizer and the number of steps in the run, makes the learning-rate schedule. Without
            one the rate stays.
        weight_decay_on: What the optimizer's weight decay applies to: ``weights`` (of convolutions and linear layers,
            never norms or biases), ``dense`` (these but the kernels of depthwise convolutions), ``convolutions`` (their
            weights alone) or ``all``.
        l1_penalty: Times the sum of absolute values of all trained parameters, added to the training loss; at least 0.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1). Training loss only.
        tta: Test-time augmentation, reported beside the plain figures: ``flip`` averages the logits of an image and
            of its mirror image, ``multi_view`` also of both moved by a pixel along the diagonal.
        compile_mode: torch.compile's mode for the network, ``none`` to run it as it is. ``default`` is for a CPU,
            ``reduce-overhead`` for small networks on a GPU. Each size of batch or images takes a minute or so at first.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable = NesterovSGD,
        schedule: ScheduleCallable | None = None,
        weight_decay_on: Decayed = "weights",
        l1_penalty: float = 0.0,
        label_smoothing: float = 0.0,
        tta: Augmentation = "none",
        compile_mode: CompileMode = "none",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing is {label_smoothing}: give a number from 0 up to, but not, 1.")
        check_choice("tta", tta, Augmentation)
        check_not_negative(l1_penalty=l1_penalty)
        if optimizer is None:
            raise UserError("optimizer is null: name one, such as SGD, or leave it out for the default.")
        self.save_hyperparameters(ignore=["net"])
        for name, value in [*self.hparams.items()]:
            self.hparams[name] = with_plain_values(value)
            # The command line leaves plain data; a function or a class of Python would make the checkpoint a pickle.
            if callable(value):
                del self.hparams[name]
        self.take_network(net, compile_mode)
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.schedule = schedule
        self.weight_decay_on = weight_decay_on
        self.l1_penalty = l1_penalty
        self.label_smoothing = label_smoothing
        self.tta = tta
        self.train_scores = Scores(num_classes)
        self.val_scores = Scores(num_classes)
        self.test_scores = Scores(num_classes)
        self.tta_scores = Scores(num_classes) if tta != "none" else None
        # Of images, logits and the labels' loss makes the loss to train on: see `Distillation`.
        self.taught: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose output Grad-CAM weighs, as a rule the last feature map before pooling."""
        raise UserError(f"{type(self).__name__} names no cam_layer: add the property to see Grad-CAM.")

    def setup(self, stage: str) -> None:
        """Lightning's hook: sees whether the network's classes are the data's."""
        super().setup(stage)
        check_classes(type(self).__name__, self.num_classes, getattr(self._trainer, "datamodule", None), stage)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes what the network draws (dropout) a function of (seed, epoch, batch, rank) alone; begins to count."""
        if batch_idx == 0:
            # What a resumed run brought along of an epoch that was over counts for that one alone.
            self.train_scores.reset()
        seed_batch(self.device, self.current_epoch, batch_idx, self.global_rank)

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean () over a batch of what training lessens, of logits (N, num_classes) and labels int64 (N,)."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch: images float (N, 3, H, W), labels int64 (N,)."""
        images, labels = batch
        logits = self(images)
        loss = self.training_loss(logits, labels)
        if self.taught is not None:
            loss = self.taught(images, logits, loss)
        penalty: Tensor | float = 0.0
        if self.l1_penalty:
            trained = (p for p in self.parameters() if p.requires_grad)  # of the module: see `parameter_groups`
            penalty = self.l1_penalty * sum(parameter.abs().sum() for parameter in trained)
        with_penalty = loss + penalty if self.l1_penalty else loss
        self.train_scores.update(with_penalty.detach(), logits.detach(), labels)
        if several_ranks() and self.trainer.is_last_batch:
            # The only batch whose shares may differ in size.
            with_penalty = loss * share_of_ranks(len(labels), self.device) + penalty
        return with_penalty

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook: the gradients of a batch's loss, which counts as much as any other of its step."""
        weight = weight_in_step(self.trainer)
        super().backward(loss if weight == 1 else loss * weight, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Counts a batch, images float (N, 3, H, W) and labels int64 (N,), and gives its logits (N, num_classes)."""
        return self.val_scores.count(self(batch[0]), batch[1])

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Counts a batch, plainly and with test-time augmentation, and gives its plain logits (N, num_classes)."""
        images, labels = batch
        if self.tta_scores is None:
            return self.test_scores.count(self(images), labels)
        averaged, plain = VIEWS[self.tta](self, images)
        self.tta_scores.count(averaged, labels)
        return self.test_scores.count(plain, labels)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The probabilities of a batch's images, float32 (N, num_classes)."""
        logits: Tensor = self(batch[0])
        return logits.float().softmax(dim=1)

    # Logged once an epoch: a call of self.log in every step costs more than the step's own bookkeeping.
    def on_train_epoch_end(self) -> None:
        """Logs ``train/loss`` and ``train/accuracy`` over the augmented images of the epoch, and tells a plateau."""
        self._log("train", self.train_scores)
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and self.is_configured_here:
            # Lightning tells it behind the epoch's checkpoint: a run that goes on from there would leave it out.
            tell(schedule, self.trainer.callback_metrics, not self._validated and validates_later(self.trainer))
        self._validated = False
        # Behind it the next epoch begins, for which a loader of one's own draws.
        seed_order(self.current_epoch + 1)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Lightning's hook: steps a schedule, but for a plateau, which has been told: see `on_train_epoch_end`."""
        if not (isinstance(scheduler, ReduceLROnPlateau) and self.is_configured_here):
            super().lr_scheduler_step(scheduler, metric)

    def on_validation_epoch_start(self) -> None:
        """Begins to count; one that was broken off may have left something."""
        self.val_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/loss`` and ``val/accuracy``."""
        self._log("val", self.val_scores)
        self._validated = not self.trainer.sanity_checking

    def on_test_epoch_start(self) -> None:
        """Begins to count, as `on_validation_epoch_start`."""
        for scores in filter(None, (self.test_scores, self.tta_scores)):
            scores.reset()

    def on_test_epoch_end(self) -> None:
        """Logs ``test/loss`` and ``test/accuracy``, and those of ``tta`` beside, as ``test/accuracy_flip``."""
        self._log("test", self.test_scores)
        if self.tta_scores is not None:
            self._log("test", self.tta_scores, f"_{self.tta}")

    def _log(self, split: str, scores: Scores, suffix: str = "") -> None:
        # A subclass may have a step of its own, which counts nothing.
        for name, metric in scores.named().items() if scores.has_counted else ():
            # Lightning's own bar, where there is one, shows them.
            self.log(f"{split}/{name}{suffix}", metric, prog_bar=split != "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says of which class the module is; what the command line keeps of that is there only where it was used."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_path"] = class_path_of(self)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters: those with the optimizer's weight decay, and those without any."""
        # Of the module: a subclass may keep layers beside its network.
        return groups_by_decay(self, self.weight_decay_on)

    def configure_optimizers(self) -> Any:
        """Lightning's hook: the optimizer, and its schedule told the number of steps."""
        replays_graphs = self.compile_mode in ("reduce-overhead", "max-autotune") and self.device.type == "cuda"
        if replays_graphs and self.trainer.accumulate_grad_batches > 1:
            # The next batch's graph writes over the gradients that were kept of this one's (pytorch issue 169545).
            raise UserError(
                "compile_mode=reduce-overhead and max-autotune gather no gradients over several batches on a GPU: give "
                "--model.compile_mode=default, or a larger batch instead of accumulate_grad_batches."
            )
        check_length(self.trainer, by_steps=False)
        optimizer, schedule = self.new_optimizer_and_schedule()
        self.configured(optimizer, schedule)
        if schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": schedule,
                "interval": getattr(schedule, "interval", "step"),
                # A plateau is told what it monitors by `on_train_epoch_end`.
                "reduce_on_plateau": False,
            },
        }

    def new_optimizer(self) -> Optimizer:
        """As this run's settings make it."""
        optimizer = made(self.optimizer, self.parameter_groups())
        begin_momentum(optimizer)
        if self._trainer is not None and self.trainer.gradient_clip_val:
            # A fused one would unscale gradients by itself, behind the clipping: Lightning refuses that.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def new_optimizer_and_schedule(self) -> tuple[Optimizer, LRScheduler | None]:
        """As this run's settings make them."""
        optimizer = self.new_optimizer()
        return optimizer, None if self.schedule is None else new_schedule(self.schedule, optimizer, self.trainer)
