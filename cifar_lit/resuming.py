"""What a resumed run takes from its checkpoint, and what from its settings."""

import math
from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning.plugins import DoublePrecision
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.hooks import QuicklyNoted
from cifar_lit.monitor import holding
from cifar_lit.ranks import of_all_ranks
from cifar_lit.resumed_settings import take_settings, unnamed_settings
from cifar_lit.scores import Counted, Scores, together
from cifar_lit.stepping import draw_seed, seed_afterwards, seed_order


class ResumableModule(QuicklyNoted, ABC):
    """Goes on from a checkpoint as if nothing had been, where its settings are still the same.

    Attributes:
        train_scores: What is counted over an epoch of training.
    """

    train_scores: Scores

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self._schedule_states: list[dict[str, Any]] = []
        self._scores_before: tuple[Counted, bool] = {}, False
        self._monitored_before: dict[str, Tensor] = {}
        self._progress_before: dict[str, Any] = {}
        # Of the run: batches of an epoch, and of a step; whether its length is a number of steps.
        self._batches: tuple[float, int] = (math.inf, 1)
        self._ahead: int | None = None
        self._by_steps = False
        # Which optimizer and schedule the settings made; not they themselves, which a copy of the module would copy.
        self._configured: tuple[int, int] | None = None
        # What its groups had then of what no argument names, and had before in the run that is gone on with.
        self._unnamed: list[dict[str, Any]] = []
        self._unnamed_before: list[dict[str, Any]] = []
        # Whether there was a validation in this epoch.
        self._validated = False
        self._drawn: int | None = None  # for torch's generators behind the run

    def setup(self, stage: str) -> None:
        """Forgets what a checkpoint brought along for an earlier run."""
        if stage == "fit":
            self._forget()
            self._drawn = draw_seed()
            seed_order(self.trainer.current_epoch if self._trainer is not None else 0)

    def teardown(self, stage: str) -> None:
        """Lets what is drawn behind a run be another each time; Lightning calls it only where none was broken off."""
        if stage == "fit" and self._drawn is not None:
            seed_afterwards(self._drawn)

    @abstractmethod
    def new_optimizer(self) -> Optimizer:
        """As this run's settings make it."""

    @abstractmethod
    def new_optimizer_and_schedule(self) -> tuple[Optimizer, LRScheduler | None]:
        """As this run's settings make them."""

    def configured(self, optimizer: Optimizer, schedule: LRScheduler | None) -> None:
        """Notes what the settings made."""
        self._configured = id(optimizer), id(schedule)
        self._unnamed = unnamed_settings(optimizer)

    @property
    def is_configured_here(self) -> bool:
        """Whether optimizer and schedule are those that the settings made, and not those of a subclass."""
        return self._configured == (id(self.optimizers(use_pl_optimizer=False)), id(self.lr_schedulers()))

    @property
    def steps_ahead(self) -> int:
        """By how much the schedule's count of optimizer steps is ahead of those that were taken.

        A run that goes on with other batches has taken other steps than a run of its settings would have.
        """
        if self._ahead is None:
            self._batches = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
            self._ahead, self._by_steps = self._found_ahead(self._progress_before), self._length_is_steps
        return self._ahead

    def _found_ahead(self, before: dict[str, Any]) -> int:
        batches, a_step = self._batches
        if not before or batches == math.inf:
            return 0
        changed = before["batches"] != batches
        if changed:
            self._go_to_the_same_share_of_the_epoch(before["batches"], int(batches))
        if self._length_is_steps:
            # Those that were taken are what counts.
            return 0
        if not changed and before.get("a_step") == a_step and before.get("ahead") is not None:
            return int(before["ahead"])
        epoch, batch = self._counts
        per_epoch = math.ceil(batches / a_step)
        within = per_epoch if batch.processed == batches else batch.processed // a_step
        # Behind an epoch its batches are still there.
        steps = epoch.processed * per_epoch + (within if epoch.ready > epoch.processed else 0)
        return int(steps - self.trainer.global_step)

    @property
    def _length_is_steps(self) -> bool:
        return bool(self.trainer.estimated_stepping_batches == self.trainer.max_steps)

    @property
    def _counts(self) -> tuple[Any, Any]:
        """Lightning's, of epochs and of the epoch's batches: ready, processed, completed."""
        loop = self.trainer.fit_loop
        return loop.epoch_progress.current, loop.epoch_loop.batch_progress.current

    def _go_to_the_same_share_of_the_epoch(self, batches_before: int, batches: int) -> None:
        """As `BatchLoader` does."""
        _, batch = self._counts
        done = batch.processed * batches // batches_before
        # The one behind which it was saved is completed only when the run goes on.
        batch.completed = done - (batch.processed - batch.completed)
        batch.ready = batch.started = batch.processed = done

    def _epochs_of_schedule(self) -> int:
        """Epochs for which a schedule was stepped: also for that behind whose validation the checkpoint was saved."""
        epoch, batch = self._counts
        last_is_done = epoch.ready > epoch.processed and batch.processed == self._batches[0]
        return int(epoch.processed + last_is_done)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what a running epoch has counted so far, on every rank, and what was logged last, as for a plateau."""
        checkpoint["train_scores"] = of_all_ranks(self.train_scores.so_far())
        checkpoint["validated"] = self._validated
        logged = self.trainer.callback_metrics.items()
        checkpoint["monitored"] = {name: value.detach().cpu() for name, value in logged if isinstance(value, Tensor)}
        if self._batches[0] < math.inf:
            batches, a_step = self._batches
            # As noted when it began: since then another trainer may have had the module.
            ahead = None if self._by_steps else self.steps_ahead
            checkpoint["progress"] = {"batches": int(batches), "a_step": a_step, "ahead": ahead}
        if self.is_configured_here:
            checkpoint["optimizer"] = type(self.optimizers(use_pl_optimizer=False)).__name__
            checkpoint["unnamed_settings"] = self._unnamed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the checkpoint's schedule out of this run's, which may be another: see `on_train_start`.

        Raises:
            UserError: It is to be gone on from, and its optimizer is another than this run's.
        """
        rank, ranks = 0, 1
        if self._trainer is not None:
            rank, ranks = self.trainer.global_rank, self.trainer.world_size
            # Where a run's length is a number of steps, Lightning takes an epoch that was over for one that was not,
            # and leaves out the images of the next one.
            self.trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
            if isinstance(self.trainer.precision_plugin, DoublePrecision):
                # Lightning would do so only when the weights have been put into a module of float32.
                self.double()
            if self.trainer.state.fn == "fit":
                self._compare_optimizers(checkpoint)
                self._take_live_weights(checkpoint)
                self._go_on_behind(checkpoint)
        self._schedule_states, checkpoint["lr_schedulers"] = checkpoint.get("lr_schedulers", []), []
        scores = checkpoint.get("train_scores", {})
        # Older checkpoints hold those of the first rank alone.
        of_ranks = scores if isinstance(scores, list) else [scores]
        self._scores_before = together(of_ranks[rank::ranks]), any(of_ranks)
        self._monitored_before = checkpoint.get("monitored", {})
        self._unnamed_before = checkpoint.get("unnamed_settings", [])
        self._progress_before, self._ahead = checkpoint.get("progress", {}), None
        self._validated = checkpoint.get("validated", True)  # older checkpoints are of runs that did in every epoch

    def _take_live_weights(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from the weights that were trained, where those of the checkpoint are an average that ends here."""
        here = {callback.state_key for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        for key, state in checkpoint.get("callbacks", {}).items():
            if key not in here and isinstance(state, dict) and state.get("live"):
                checkpoint["state_dict"] = {**checkpoint["state_dict"], **state["live"]}
                say(f"The checkpoint's weights are those of {key}: the run goes on from the trained ones beside them.")

    def _go_on_behind(self, checkpoint: dict[str, Any]) -> None:
        """Sees to the order of the images to come; says what was gathered for a step, and is in no checkpoint."""
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        epoch = loops.get("epoch_progress", {}).get("current", {"ready": 0, "processed": 0})
        batch = loops.get("epoch_loop.batch_progress", {})
        inside, done = epoch["ready"] > epoch["processed"], batch.get("current", {}).get("processed", 0)
        if not inside or batch.get("is_last_batch"):
            seed_order(epoch["processed"] + inside)
            return
        # Lightning begins a loader of one's own anew, and would give it the batches again that were just learnt.
        seed_order(epoch["processed"], done)
        a_step = checkpoint.get("progress", {}).get("a_step") or self.trainer.accumulate_grad_batches
        if lost := done % a_step:
            say(
                f"The checkpoint was saved in the middle of a step: the gradients of {lost} of its {a_step} batches "
                "are lost (where accumulate_grad_batches divides val_check_interval, and an epoch's batches if "
                "check_val_every_n_epoch is null, checkpoints are of whole steps)."
            )

    def _compare_optimizers(self, checkpoint: dict[str, Any]) -> None:
        before, states = checkpoint.get("optimizer"), checkpoint.get("optimizer_states", [])
        maker = next(kind for kind in type(self).__mro__ if "configure_optimizers" in vars(kind))
        if before is None or not states or "new_optimizer" not in vars(maker):
            return  # of an older version, without one (as Lightning says), or of a subclass
        optimizer, groups = self.new_optimizer(), states[0]["param_groups"]
        kind = type(optimizer).__name__
        # Kin, such as Adam and AdamW, go on from one another.
        if kind != before and not optimizer.param_groups[0].keys() <= groups[0].keys():
            raise UserError(
                f"The checkpoint's run has the optimizer {before}, of whose state {kind} can make nothing: give "
                f"--model.optimizer={before}, or begin a new run."
            )
        own, kept = ([len(group["params"]) for group in of_run] for of_run in (optimizer.param_groups, groups))
        # With other weights there is more to say than that.
        if own != kept and sum(own) == sum(kept):
            raise UserError(
                "The checkpoint's run has weight decay on other weights: give the --model.weight_decay_on that its "
                "config.yaml names, or begin a new run."
            )

    def on_train_start(self) -> None:
        """Puts the settings of this run in the place of those that a resumed checkpoint brought along."""
        # Not before: Lightning resets all metrics when a run begins.
        self.train_scores.go_on_from(*self._scores_before)
        for name, value in holding(self._monitored_before, self.trainer.enable_validation).items():
            self.trainer.callback_metrics.setdefault(name, value)
        ahead = self.steps_ahead
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        if isinstance(optimizer, Optimizer) and self.is_configured_here:
            if self.trainer.global_step:
                take_settings(
                    (optimizer, schedule),
                    self.new_optimizer_and_schedule(),
                    self._schedule_states,
                    self._unnamed_before,
                    self._epochs_of_schedule(),
                    self.trainer.global_step + ahead,
                )
        else:
            # As Lightning does.
            for config, state in zip(self.trainer.lr_scheduler_configs, self._schedule_states, strict=False):
                config.scheduler.load_state_dict(state)
