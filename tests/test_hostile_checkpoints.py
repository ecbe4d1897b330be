"""A checkpoint that is damaged or made to do harm ends a command in a line, and nothing of it is executed."""

import contextlib
import io
import os
import random
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.accuracy import QUIET
from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.cli import main
from cifar_lit.errors import UserError
from cifar_lit.runs import find_checkpoint

MODEL = ["--model=DepthwiseNet", "--model.widths=[[8],[8]]", "--model.dropout=[0,0]", "--data=DigitsDataModule"]
QUICK = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", *QUIET]
OFFSETS = 50


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    main(["fit", *MODEL, *QUICK, f"--trainer.default_root_dir={folder}", "--data.batch_size=16"])
    (checkpoint,) = folder.rglob("last.ckpt")
    return checkpoint


def read(path: Path) -> dict[str, Any]:
    """What every command does with a checkpoint that it was given."""
    return load_checkpoint(find_checkpoint(str(path), Path()))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def refusal(path: Path) -> str:
    """The line in which a command that is given a checkpoint ends."""
    began = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        main(["test", f"--ckpt_path={path}"])
    message = str(caught.value.code)
    assert message.startswith("cifar-lit: ")
    assert "\n" not in message
    assert time.monotonic() - began < 10
    return message


def test_cut_short_anywhere_is_an_error(run: Path, tmp_path: Path) -> None:
    content = run.read_bytes()
    draw = random.Random(0)
    path = tmp_path / "cut.ckpt"
    for length in [0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(OFFSETS))]:
        path.write_bytes(content[:length])
        assert re.search(r"cut\.ckpt is (cut short|damaged)", refusal(path))


def test_a_flipped_bit_is_an_error_or_without_meaning(run: Path, tmp_path: Path) -> None:
    content = run.read_bytes()
    whole = read(run)
    draw = random.Random(0)
    # The table of contents at the end, where little is redundant, beside the whole file.
    table = struct.unpack("<I", content[-6:-2])[0]
    assert content[table : table + 4] == b"PK\x01\x02"
    places = [draw.randrange(len(content)) for _ in range(OFFSETS)]
    places += [draw.randrange(table, len(content)) for _ in range(OFFSETS)]
    path = tmp_path / "flipped.ckpt"
    refused: list[str] = []
    for place in places:
        path.write_bytes(flipped(content, place, draw.randrange(8)))
        try:
            # Such as one of the bytes that align the entries, or of a time stamp.
            assert same(read(path), whole), place
        except UserError:
            refused.append(refusal(path))
    assert len(refused) > OFFSETS
    assert all("flipped.ckpt" in message for message in refused)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


class Stranger:
    """A class that no allow-list names; unpickling it would do nothing."""


def planted(content: bytes, where: str, what: Any) -> bytes:
    """A checkpoint with something else in one of its places."""
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    checkpoint[where] = what
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "explain", "export", "summary"])
@pytest.mark.parametrize("where", ["state_dict", "something"])
def test_nothing_in_a_checkpoint_is_executed(
    command: str, where: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executed = tmp_path / "executed"
    Path("hostile.ckpt").write_bytes(planted(run.read_bytes(), where, Payload(executed)))
    # With and without the settings: those are looked for in the checkpoint itself.
    for settings in ([*MODEL, *QUICK], []) if command != "fit" else ([*MODEL, *QUICK],):
        with pytest.raises(SystemExit) as caught:
            main([command, *settings, "--ckpt_path=hostile.ckpt"])
        assert "hostile.ckpt cannot be read as data alone" in str(caught.value.code)
        assert "\n" not in str(caught.value.code)
    assert not executed.exists()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["hostile.ckpt"]
    # The trap itself works.
    torch.load("hostile.ckpt", weights_only=False)
    assert executed.is_dir()


def test_a_class_outside_the_list_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "strange.ckpt"
    path.write_bytes(planted(run.read_bytes(), "something", Stranger()))
    with pytest.raises(UserError, match="cannot be read as data alone"):
        read(path)


def test_an_entry_of_the_archive_that_leads_elsewhere_writes_nothing(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "inner" / "climbing.ckpt"
    path.parent.mkdir()
    path.write_bytes(run.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr(str(tmp_path / "escaped"), b"x")
    with contextlib.suppress(UserError):
        assert same(read(path), read(run))
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["climbing.ckpt", "inner"]


def test_the_checkpoint_before_is_not_written_over(run: Path, tmp_path: Path) -> None:
    """A resume that fails leaves the run as it was."""
    settings = ["fit", *MODEL, *QUICK, "--data.batch_size=16", f"--trainer.default_root_dir={tmp_path}"]
    main(settings)
    (last,) = tmp_path.rglob("last.ckpt")
    content = last.read_bytes()
    last.write_bytes(content[:-100])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        main([*settings, "--trainer.max_epochs=2", "--ckpt_path=last"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert yaml.safe_load((last.parent.parent / "config.yaml").read_text())["trainer"]["max_epochs"] == 1


@pytest.mark.parametrize("command", ["validate", "test", "predict", "explain", "export", "summary"])
@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("hyper_parameters", {"_class_path": "planted.Net"}),
        ("hyper_parameters", {"optimizer": {"class_path": "planted.Net"}}),
        ("hyper_parameters", {"schedule": "planted.Net"}),
        ("datamodule_hyper_parameters", {"_class_path": "planted.Net"}),
        ("datamodule_hyper_parameters", {"transforms": [{"class_path": "planted.Net"}]}),
        ("datamodule_hyper_parameters", {"transforms": ["planted.Net"]}),
        ("datamodule_hyper_parameters", {"transforms": "[{class_path: planted.Net}]"}),
        ("hyper_parameters", {"optimizer": "{class_path: planted.Net}"}),
        ("datamodule_hyper_parameters", {"transforms": [{"class_path": "OneOf", "init_args": {"t": ["planted.N"]}}]}),
    ],
)
def test_a_checkpoint_does_not_choose_what_code_is_imported(
    command: str, where: str, change: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("planted.py").write_text("open('executed', 'w').close()\nclass Net: ...\n")
    content = torch.load(run, weights_only=True)
    # Also where it stands in a run's folder, as it was received.
    folder = Path("received/checkpoints")
    folder.mkdir(parents=True)
    config = "model: {class_path: planted.Net}\ntrainer: {callbacks: [{class_path: planted.Net}]}\n"
    (folder.parent / "config.yaml").write_text(config)
    hostile = folder / "best.ckpt"
    hostile.write_bytes(planted(run.read_bytes(), where, {**content[where], **change}))
    for given in (hostile, folder.parent):
        with pytest.raises(
            SystemExit, match=r"asks for the class .*planted\.\w+.*, whose code a checkpoint may not choose"
        ):
            main([command, f"--ckpt_path={given}"])
    assert not Path("executed").exists()
