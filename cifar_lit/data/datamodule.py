"""From uint8 arrays to splits and loaders: what every data set here has in common."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from cifar_lit.classes import check_names
from cifar_lit.console import say
from cifar_lit.data.batches import BatchLoader, EvaluationPlan, TrainingPlan, evaluation_batch
from cifar_lit.data.device_batches import DeviceBatches
from cifar_lit.data.device_executor import unsupported
from cifar_lit.data.executor_choice import Executor, runs_on_device, tell_of_another_size
from cifar_lit.data.images import Images, stratified_split
from cifar_lit.data.scaling import Transform, check_floats, listed, scaling_of, tell_of_another_scaling
from cifar_lit.data.statistics import (
    Normalization,
    Statistics,
    channel_statistics,
    learnt_statistics,
    normalised,
    statistics_of,
)
from cifar_lit.data.worker_executor import WorkerExecutor
from cifar_lit.data.worker_processes import default_workers
from cifar_lit.errors import check_choice, check_whole
from cifar_lit.plain import keep_plain


class ImageDataModule(LightningDataModule, ABC):
    """Holds a data set in memory as uint8 and hands it out in batches that (seed, epoch, step) decide.

    A subclass says where images come from: `load` and `class_names`, and `prepare_data` where there is something to
    download. Batches reach the model as float32 (N, 3, H, W), normalised on the device, with labels int64 (N,).

    Args:
        batch_size: Training images in a batch, over all devices together.
        val_size: Training images held out for validation, stratified: a number, or below 1 a share. 0 validates on
            the test split, as many published systems do; their best epoch is then chosen by the test split.
        transforms: albumentations transforms for training images, applied in this order; or one, such as a Compose.
        executor: Who applies them: ``device`` a whole batch at a time, on the device where the data set then lives;
            ``workers`` image by image with albumentations itself; ``auto`` is ``device`` if it can run all of them.
        normalize: Subtract the training images' mean and divide by their deviation, a number each a channel
            (``channel``); subtract the mean image (``pixel_mean``); or only scale to [0, 1] (``none``).
        num_workers: Processes that prepare batches where ``executor`` is ``workers``, which giving a number chooses;
            by default 0 when training on a CPU, else up to 8.
        drop_last: Leave out the smaller batch at the end of a training epoch.
        seed: Decides order and augmentation; by default that of ``seed_everything``.
        split_seed: Decides which images are held out. Not tied to ``seed``: runs with other seeds stay comparable.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int | float = 0.1,
        transforms: Sequence[Transform] | None = None,
        executor: Executor = "auto",
        normalize: Normalization = "channel",
        num_workers: int | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole(1, batch_size=batch_size)
        check_whole(0, num_workers=num_workers, seed=seed, split_seed=split_seed)
        check_choice("executor", executor, Executor)
        check_choice("normalize", normalize, Normalization)
        # The run's page and its checkpoints show these. Objects given in Python would make a checkpoint a pickle.
        self.save_hyperparameters(logger=False)
        keep_plain(self.hparams)
        self.batch_size = batch_size
        self.val_size = val_size
        self.transforms = listed(transforms)
        self.scaling = scaling_of(self.transforms)
        self.executor = executor
        self.normalize = normalize
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.seed = seed
        self.split_seed = split_seed
        self.train_images: Images | None = None
        self.val_images: Images | None = None
        self.test_images: Images | None = None
        self._statistics: Statistics | None = None
        self._own_statistics: Statistics | None = None
        self._train_loader: BatchLoader | None = None
        self._resume_from: dict[str, Any] | None = None
        self._learnt: dict[str, Any] | None = None

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""

    @abstractmethod
    def load(self, split: Literal["train", "test"]) -> Images:
        """All images of a split. Called after `prepare_data`, once a process."""

    #: Side of the images in pixels, or height and width: for `summary`, which asks before they are loaded.
    image_size: Any = 32

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def channel_statistics(self, train: Images) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel over the training images, in [0, 1]."""
        return channel_statistics(train)

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits the images, once. A fit begins with their own mean and deviation."""
        if stage == "fit":
            # What an evaluation of a checkpoint left here is not meant for it.
            self._learnt, self._statistics, self._resume_from = None, self._own_statistics, None
        if self.test_images is not None:
            return
        check_names(type(self).__name__, self.class_names)
        train, self.test_images = self._checked("train"), self._checked("test")
        if self.val_size == 0:
            self.train_images, self.val_images = train, self.test_images
            validates = self.trainer is None or self.trainer.limit_val_batches != 0
            if stage in (None, "fit", "validate") and validates:
                say(
                    "val_size is 0: validating on the test split, so the best epoch is chosen by it. "
                    "Report the last epoch, or hold images out with --data.val_size."
                )
        else:
            kept, held_out = stratified_split(train.labels, self.val_size, self.split_seed)
            self.train_images, self.val_images = train.take(kept), train.take(held_out)
        self._own_statistics = self._statistics = statistics_of(train, self.normalize, self.channel_statistics)
        if self._learnt is not None:
            self.normalise_as(self._learnt)

    def _checked(self, split: Literal["train", "test"]) -> Images:
        return self.load(split).checked(f"{type(self).__name__}.load({split!r})", self.num_classes)

    def normalise_as(self, learnt: dict[str, Any]) -> None:
        """Has a network get images as it learnt them, by the `state_dict` of its data; these may have changed since.

        Raises:
            UserError: They were of other classes.
        """
        self._learnt = learnt
        if self._own_statistics is not None and self.test_images is not None:
            self._statistics = learnt_statistics(learnt, self._own_statistics, self.class_names, self.test_images.size)

    def train_dataloader(self) -> BatchLoader:
        """Shuffled, augmented, sharded and resumable."""
        assert self.train_images is not None, "setup() comes first"
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        overfit = self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        ranks = self._rank_and_world_size()
        plan = TrainingPlan(len(self.train_images), self.batch_size, seed, *ranks, self.drop_last, same_order=overfit)
        _, height, width, _ = self.train_images.pixels.shape
        executor: DeviceBatches | WorkerExecutor
        workers, on_gpu = 0, self._device.type == "cuda"
        if runs_on_device(self.executor, self.num_workers, self.transforms, (height, width), self._device):
            executor = self._on_device(self.train_images, self.transforms, seed)
        else:
            executor = WorkerExecutor(self.train_images.pixels, self.train_images.labels, self.transforms, seed)
            given = self.num_workers
            workers = given if given is not None else default_workers(self._device, self.trainer)
        tell_of_another_size(executor.output_size, (height, width), self.test_images)
        pinned = on_gpu and isinstance(executor, WorkerExecutor)
        self._train_loader = BatchLoader(plan, executor, workers, pinned)
        if self._resume_from is not None:
            self._train_loader.load_state_dict(self._resume_from)
            self._resume_from = None
        return self._train_loader

    def _on_device(self, images: Images, transforms: Sequence[Transform], seed: int) -> DeviceBatches:
        return DeviceBatches(images.pixels, images.labels, transforms, seed, self._device)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def val_dataloader(self) -> BatchLoader:
        """The held-out images, each exactly once."""
        return self._evaluation_loader(self.val_images, "limit_val_batches")

    def test_dataloader(self) -> BatchLoader:
        """The test images, each exactly once."""
        return self._evaluation_loader(self.test_images, "limit_test_batches")

    def predict_dataloader(self) -> BatchLoader:
        """The test images, each exactly once."""
        return self._evaluation_loader(self.test_images)

    def _evaluation_loader(self, images: Images | None, limit: str = "") -> BatchLoader:
        """The batches of a split.

        Args:
            images: Its images.
            limit: The trainer's argument that may have it look at some of them: these are then drawn from all.
        """
        assert images is not None, "setup() comes first"
        _, height, width, _ = images.pixels.shape
        batches: int | float = getattr(self.trainer, limit) if limit and self.trainer is not None else 1.0
        shuffled = isinstance(batches, int) or batches < 1  # 1 is one batch, 1.0 all
        plan = EvaluationPlan(len(images), evaluation_batch(height, width), *self._rank_and_world_size(), shuffled)
        if self.executor == "workers" or (self.scaling and unsupported(self.scaling, (height, width)) is not None):
            return BatchLoader(plan, WorkerExecutor(images.pixels, images.labels, self.scaling))
        return BatchLoader(plan, self._on_device(images, self.scaling, seed=0))

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalises on the device: uint8 (N, H, W, 3) becomes float32 (N, 3, H, W), laid out as channels_last.

        Floats were normalised by the recipe's own list, and only turned.
        """
        images, *rest = batch
        if images.dtype is not torch.uint8:
            check_floats(self.scaling)
            return [images.permute(0, 3, 1, 2), *rest]
        assert self._statistics is not None, "setup() comes first"
        mean, std = (statistic.to(images.device) for statistic in self._statistics)
        self._statistics = mean, std
        images = normalised(images, self._statistics)
        if self.trainer is not None:
            # To the type of the weights: Lightning has converted the batch before, while it was uint8.
            images = self.trainer.precision_plugin.convert_input(images)
        return [images, *rest]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: class names, normalisation, and how far the epoch has come."""
        if self._statistics is None or self.test_images is None:
            return {}
        mean, std = self._statistics
        kept = {"class_names": list(self.class_names), "image_size": self.test_images.size}
        state: dict[str, Any] = {**kept, "mean": mean.cpu(), "std": std.cpu(), "scaled": bool(self.scaling)}
        return state if self._train_loader is None else {**state, "train_loader": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the next training loader continue where the checkpoint's left off, and images be normalised alike."""
        self.normalise_as(state_dict)
        tell_of_another_scaling(state_dict.get("scaled"), bool(self.scaling))
        # Lightning's own way forgets it where the loader is asked for before, as by a schedule for the number of steps.
        self._resume_from = state_dict.get("train_loader")
