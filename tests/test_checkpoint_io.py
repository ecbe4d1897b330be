"""A checkpoint that cannot be written leaves the one before as it was."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.checkpoint_io import AtomicCheckpointIO
from cifar_lit.errors import UserError
from cifar_lit.files import write_atomically

BEFORE, AFTER = {"step": torch.tensor(1)}, {"step": torch.tensor(2)}


def saved_step(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def test_saves_into_new_folders_and_over_old_files(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for checkpoint in (BEFORE, AFTER):
        AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    assert saved_step(path) == 2
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_nothing_is_seen_under_the_final_name_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(BEFORE, path)
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def seen_replace(self: Path, target: Any) -> Path:
        order.append("rename")
        assert self.parent == path.parent, "a rename is atomic within a file system"
        assert saved_step(path) == 1
        assert saved_step(self) == 2
        return replace(self, target)

    def seen_fsync(descriptor: int) -> None:
        order.append("sync")
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", seen_replace)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    io.save_checkpoint(AFTER, path)
    assert order == ["sync", "rename", "sync"]
    assert saved_step(path) == 2


def test_a_failure_in_the_middle_leaves_the_checkpoint_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(BEFORE, path)

    def half(checkpoint: Any, file: Any) -> None:
        file.write(b"half of it")
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="no space left"):
        io.save_checkpoint(AFTER, path)
    assert saved_step(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_checkpoint_that_was_there(small_disk: Path) -> None:
    path, io = small_disk / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(BEFORE, path)
    with pytest.raises(UserError, match=r"Cannot write the checkpoint .* make room .* go on with --ckpt_path last, or"):
        io.save_checkpoint({"weights": torch.zeros(100_000)}, path)
    assert saved_step(path) == 1
    assert [file.name for file in small_disk.iterdir()] == ["last.ckpt"]


def test_any_file_that_a_full_disk_has_no_room_for_is_named(small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot write .*/table\.csv \(No space left on device\): make room"):
        write_atomically(small_disk / "table.csv", "0" * 100_000)
    assert not list(small_disk.iterdir())


def test_a_link_stays_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.csv").write_text("before")
    (tmp_path / "table.csv").symlink_to("elsewhere.csv")
    write_atomically(tmp_path / "table.csv", "now")
    assert (tmp_path / "table.csv").is_symlink()
    assert (tmp_path / "elsewhere.csv").read_text() == "now"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        write_atomically(tmp_path / "pipe", "through it")
        assert read.result() == "through it"
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_is_printed_to_is_added_to(tmp_path: Path) -> None:
    code = "from pathlib import Path; from cifar_lit.files import write_atomically\n"
    code += "write_atomically(Path('/dev/stdout'), 'table\\n'); print('behind')"
    with (tmp_path / "log.txt").open("w") as log:
        log.write("before\n")
        log.flush()
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log.txt").read_text() == "before\ntable\nbehind\n"
