"""TensorBoard, with the curves of training and validation on one chart."""

import contextlib
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from cifar_lit.errors import UserError
from cifar_lit.files import ready_to_write, writing
from cifar_lit.runs import LOGS, run_of

SPLITS = ("train", "val", "test")
# At the end of the names of files with what an evaluation found, beside those of the run.
EVALUATION = ".evaluation"
# What to do where curves cannot be written.
OTHERWISE = "make room or mend access, then go on with --ckpt_path last, or begin again"


class CurvesLogger(TensorBoardLogger):
    """Writes ``train/loss`` as ``loss`` of the sub-run ``train``, ``val/loss`` as ``loss`` of ``val``, and so on.

    TensorBoard draws equal names of several runs on one chart, and only those.

    Args:
        save_dir: Folder below which runs land.
        name: Sub-folder for the runs of one recipe.
        version: Of the run; by default the next that is free.
        evaluates: It is not the run itself that logs, but an evaluation of its checkpoint.
    """

    def __init__(
        self,
        save_dir: str,
        name: str = "lightning_logs",
        version: int | str | None = None,
        evaluates: bool = False,
    ) -> None:
        # A run that logs no metric at its start would show as −1.
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)
        self._suffix = EVALUATION if evaluates else ""
        self._writers: dict[str, SummaryWriter] = {}
        # The step and value that was last logged under a name.
        self._logged: dict[str, tuple[int | None, float]] = {}
        # Folders of a new run that were not there before, its own first.
        self._made: list[Path] = []

    def _get_next_version(self) -> int:
        """Makes the folder of a new run, and gives its number: of several that begin at once each has its own."""
        number: int = super()._get_next_version()
        if getattr(rank_zero_only, "rank", 0):
            # Others are told by the trainer which it is.
            return number
        runs = Path(self.root_dir)
        missing = [folder for folder in (runs, *runs.parents) if not folder.exists()]
        ready_to_write(runs, "give another --trainer.default_root_dir, or --trainer.logger=false")
        while True:
            with contextlib.suppress(FileExistsError):
                # With those above it, which a run that failed may just have removed.
                (own := runs / f"version_{number}").mkdir(parents=True)
                self._made = [own, *missing]
                return number
            number += 1

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self.log_dir, OTHERWISE)

    @property
    def experiment(self) -> SummaryWriter:
        """TensorBoard's writer of what belongs to no split."""
        with self._writing():
            writer: SummaryWriter = super().experiment
            return writer

    def _writer(self, split: str) -> SummaryWriter:
        if split not in self._writers:
            self._writers[split] = SummaryWriter(str(Path(self.log_dir) / split), filename_suffix=self._suffix)
        return self._writers[split]

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Logs scalars, each to the sub-run that its name begins with; what was just logged is not logged again."""
        for name, value in metrics.items():
            # Lightning adds the epoch to everything; a chart of it only takes room.
            if name == "epoch" or self._logged.get(name) == (step, value):
                continue
            self._logged[name] = step, value
            split, _, rest = name.partition("/")
            with self._writing():
                if rest and split in SPLITS:
                    self._writer(split).add_scalar(rest, value, step)
                else:
                    self.experiment.add_scalar(name, value, step)

    @rank_zero_only
    def save(self) -> None:
        """Writes out what is pending."""
        with self._writing():
            super().save()
            for writer in self._writers.values():
                writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes out what is pending and closes the files; a run that failed before it wrote any leaves no folder."""
        # What ended the run is to be told, and not that the disk is full, too.
        with contextlib.suppress(UserError) if status == "failed" else contextlib.nullcontext(), self._writing():
            super().finalize(status)
            for writer in self._writers.values():
                writer.flush()
                writer.close()
        if status == "failed":
            # Up to the first that holds something.
            with contextlib.suppress(OSError):
                for folder in self._made:
                    folder.rmdir()


def tensorboard_of(trainer: Trainer) -> TensorBoardLogger | None:
    """The first of a trainer's loggers that writes for TensorBoard."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def logger_of(checkpoint: Path | None, root: Path, recipe: str, evaluates: bool) -> CurvesLogger:
    """TensorBoard for a run.

    Args:
        checkpoint: That it is about: a resumed run's curves go on, and beside them stands what an evaluation finds.
        root: Folder of ``lightning_logs`` for a new run.
        recipe: What it is called.
        evaluates: It is evaluated, not trained.

    Raises:
        UserError: The checkpoint's run cannot be written to.
    """
    run = run_of(checkpoint) if checkpoint is not None else None
    if run is None:
        return CurvesLogger(str(root), name=f"{LOGS}/{recipe}")
    # TensorBoard would say so only when all is computed, from a thread of its own.
    ready_to_write(run, "give --trainer.logger=false, or a copy of the checkpoint elsewhere")
    return CurvesLogger(str(run.parent.parent), run.parent.name, run.name, evaluates)
