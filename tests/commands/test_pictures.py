"""A folder of one's own pictures becomes a table, whatever lies in it."""

import csv
import errno
import os
import struct
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from colour_run import Run, train
from PIL import Image
from torch import nn

from cifar_lit.classifier import Classifier
from cifar_lit.commands.evaluation import load_weights
from cifar_lit.commands.learnt_data import preprocessing_in, size_of_images
from cifar_lit.commands.picture_files import EXTENSIONS, FORMATS
from cifar_lit.commands.pictures import predict_pictures
from cifar_lit.data import DigitsDataModule
from cifar_lit.data.decoding import decode
from cifar_lit.errors import UserError

NAMES = ("red", "green, like grass", "blue")
COLOURS = {"red": (200, 100, 100), "green": (100, 200, 100), "blue": (100, 100, 200)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("logs"))


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (40, 32), mode: str = "RGB", **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(-50, 50, (size[1], size[0], 3))
    Image.fromarray((np.array(COLOURS[colour]) + noise).astype(np.uint8)).convert(mode).save(path, **how)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


def predict(run: Run, folder: Path, output: Path, model: Classifier | None = None, **kwargs: Any) -> list[list[str]]:
    model = model or run.model()
    class_names, normalize = preprocessing_in(load_weights(model, run.checkpoint), run.checkpoint)
    read = partial(decode, size=32, formats=FORMATS)
    predict_pictures(model.train(), read, normalize, folder, output, class_names, **kwargs)
    return table(output)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_a_row_a_picture_of_every_format(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in EXTENSIONS:
        picture(folder / f"a{suffix}")
    picture(folder / "below" / "further" / "GREEN.PNG", "green")
    picture(folder / "grey.png", mode="L")
    picture(folder / "palette.gif", mode="P")
    picture(folder / "alpha.webp", mode="RGBA")
    picture(folder / "cmyk.jpg", mode="CMYK")
    (folder / ".DS_Store").write_bytes(b"hidden")
    picture(folder / ".thumbnails" / "a.png")
    (folder / "notes.txt").write_text("no picture")
    head, *rows = predict(run, folder, folder.parent / "new" / "table.csv")
    assert head == ["file", "predicted", "probability", "second", "third", *(f"p_{name}" for name in NAMES)]
    files = [row[0] for row in rows]
    assert len(files) == len(EXTENSIONS) + 5
    assert files == sorted(files)
    assert "below/further/GREEN.PNG" in files
    for row in rows:
        probabilities = np.array(row[5:], float)
        order = np.argsort(-probabilities)
        assert probabilities.sum() == pytest.approx(1)
        assert [row[1], row[3], row[4]] == [NAMES[i] for i in order]
        assert float(row[2]) == probabilities.max()
    out = capsys.readouterr().out
    assert "Passed over 1 file (notes.txt)" in out
    assert f"Wrote {len(rows)} predictions" in out


def test_predictions_are_those_of_the_network_in_evaluation_mode(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # More than a batch, and the last one smaller.
    test = run.data().load("test")
    folder.mkdir()
    for i, pixels in enumerate(np.concatenate([test.pixels, test.pixels])):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    rows = predict(run, folder, folder / "predictions.csv")[1:]
    assert [row[0] for row in rows] == [f"{i:03}.png" for i in range(100)]

    data, model = run.data(), run.model().eval()
    model.load_state_dict(torch.load(run.checkpoint, weights_only=True)["state_dict"])
    data.setup()
    images = data.on_after_batch_transfer([torch.from_numpy(test.pixels)], 0)[0]
    with torch.no_grad():
        expected = model(images).softmax(1).numpy()
    found = np.array([row[5:] for row in rows], float)
    np.testing.assert_allclose(found, np.concatenate([expected, expected]), atol=1e-5)
    # Once more: the table of the run before is no file of the user's, and is replaced.
    assert predict(run, folder, folder / "predictions.csv")[1:] == rows
    assert "Passed over" not in capsys.readouterr().out


def test_two_classes_have_no_third(folder: Path, tmp_path: Path, run: Run) -> None:
    picture(folder / "a.png")
    model, normalize = run.model(num_classes=2), lambda pixels: pixels.permute(0, 3, 1, 2).float()
    predict_pictures(model, partial(decode, size=32), normalize, folder, tmp_path / "t.csv", ("a", "b"))
    row = table(tmp_path / "t.csv")[1]
    assert sorted([row[1], row[3], row[4]]) == ["", "a", "b"]
    assert len(row) == 7


def test_of_a_sure_network_the_second_and_third_are_by_logits(folder: Path, tmp_path: Path) -> None:
    class Sure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[200.0, -10, 0, 50]]).expand(len(images), 4)

    picture(folder / "a.png")
    read, normalize = partial(decode, size=32), lambda pixels: pixels.permute(0, 3, 1, 2).float()
    predict_pictures(Sure(), read, normalize, folder, tmp_path / "t.csv", "abcd")  # type: ignore[arg-type]
    row = table(tmp_path / "t.csv")[1]
    assert [row[1], row[3], row[4]] == ["a", "d", "c"]


def bomb(path: Path, side: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_what_cannot_be_read_is_named_at_the_end(run: Run, folder: Path) -> None:
    whole = picture(folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.gif").write_text("no picture")
    # Pillow itself only warns of the first of these.
    bomb(folder / "wide.png", 10_000)
    bomb(folder / "wider.png", 14_000)
    output = folder.parent / "table.csv"
    named = r"5 files \(cut.png, empty.jpg, text.gif, wide.png, wider.png\) of 6 could not be read"
    with pytest.raises(UserError, match=named):
        predict(run, folder, output)
    assert [row[0] for row in table(output)] == ["file", "whole.png"]


def test_pictures_of_kinds_that_are_not_read_and_broken_links_are_listed_too(run: Run, folder: Path) -> None:
    picture(folder / "good.png")
    (folder / "telephone.HEIC").write_bytes(b"not read here")
    (folder / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    with pytest.raises(UserError, match=r"2 files \(lost\.jpg, telephone\.HEIC\) of 3 could not be read"):
        predict(run, folder, folder.parent / "table.csv")
    assert (folder.parent / "unreadable.txt").read_text().split() == ["lost.jpg", "telephone.HEIC"]


def test_links_to_themselves_and_closed_folders_are_listed_too(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(folder / "good.png")
    (folder / "round.png").symlink_to("round.png")
    picture(folder / "closed" / "unseen.png")

    def scan(path: str) -> Any:
        # Whoever runs the tests may look everywhere.
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(UserError, match=r"2 files \(closed, round\.png\) of 3 could not be read"):
        predict(run, folder, folder.parent / "table.csv")
    assert (folder.parent / "unreadable.txt").read_text().split() == ["closed", "round.png"]


def test_pictures_in_linked_folders_are_predicted_too(run: Run, folder: Path, tmp_path: Path) -> None:
    picture(folder / "own.png")
    picture(tmp_path / "elsewhere" / "far.png")
    picture(tmp_path / "elsewhere" / ".hidden" / "not.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    # Which holds the link itself.
    (folder / "again").symlink_to(folder)
    # Beside it in its folder, and before it by name.
    picture(folder / "real" / "near.png")
    (folder / "alias").symlink_to(folder / "real")
    rows = predict(run, folder, tmp_path / "table.csv")
    assert [row[0] for row in rows[1:]] == ["link/far.png", "own.png", "real/near.png"]


def test_a_list_of_many_stays_a_line(run: Run, folder: Path) -> None:
    folder.mkdir()
    for i in range(9):
        (folder / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"9 files \(0.png, 1.png, 2.png, 3.png, 4.png, …\) of 9 could"):
        predict(run, folder, folder.parent / "table.csv")
    assert len(table(folder.parent / "table.csv")) == 1
    listed = folder.parent / "unreadable.txt"
    assert listed.read_text(encoding="utf-8").split() == [f"{i}.png" for i in range(9)]
    for i in range(9):
        picture(folder / f"{i}.png")
    predict(run, folder, folder.parent / "table.csv")
    assert not listed.exists()


def test_names_that_are_no_text(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(folder / "grün, \n.png")
    try:
        (folder / "a.png").rename(picture(folder / "a.png").with_name("b\udcff.png"))
        (folder / "c\udcff.txt").write_text("")
    except OSError:
        pytest.skip("this file system takes text only")
    rows = predict(run, folder, folder.parent / "table.csv", overlays=folder.parent / "cam")
    assert [row[0] for row in rows[1:]] == ["b\udcff.png", "grün, \n.png"]
    assert "c�.txt" in capsys.readouterr().out
    # And what a run before made of others goes.
    (folder / "grün, \n.png").unlink()
    predict(run, folder, folder.parent / "table.csv", overlays=folder.parent / "cam")
    assert [path.name for path in (folder.parent / "cam").iterdir()] == ["b\udcff.png.png"]


def test_overlays_lie_beside_the_enlarged_image(run: Run, folder: Path) -> None:
    picture(folder / "a.png", "blue", (32, 32))
    picture(folder / "b" / "a.jpg", "green")
    cam = folder / "cam"
    rows = predict(run, folder, folder.parent / "table.csv", overlays=cam, method="HiResCAM")
    assert sorted(str(path.relative_to(cam)) for path in cam.rglob("*.png")) == ["a.png.png", "b/a.jpg.png"]
    pair = np.asarray(Image.open(cam / "a.png.png"))
    assert pair.shape == (256, 512, 3)
    np.testing.assert_array_equal(pair[::8, :256:8], np.asarray(Image.open(folder / "a.png")))
    assert (pair[:, :256] != pair[:, 256:]).any()
    # Overlays of the run before are no pictures.
    assert predict(run, folder, folder.parent / "table.csv", overlays=cam, method="HiResCAM") == rows
    assert (np.asarray(Image.open(cam / "a.png.png")) == pair).all()


def test_overlays_show_the_predicted_class(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for colour in COLOURS:
        picture(folder / f"{colour}.png", colour)
    asked: list[Any] = []

    def maps(net: Any, layer: Any, images: torch.Tensor, classes: Any, method: str) -> Any:
        asked.append([NAMES[c] for c in classes])
        assert layer in list(net.modules())
        return np.zeros((len(images), 32, 32), np.float32)

    monkeypatch.setattr("cifar_lit.commands.pictures.class_activation_maps", maps)
    for mode in ("none", "default"):
        model = run.model(compile_mode=mode)
        rows = predict(run, folder, folder.parent / "table.csv", model, overlays=folder.parent / "cam")
        assert asked[-1] == [row[1] for row in rows[1:]]


def test_a_compiled_network_has_maps_too(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    for mode in ("none", "default"):
        predict(run, folder, folder / "t.csv", run.model(compile_mode=mode), overlays=folder.parent / mode)
    plain, compiled = ((folder.parent / mode / "a.png.png").read_bytes() for mode in ("none", "default"))
    assert plain == compiled


def test_overlays_leave_the_pictures_alone(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    with pytest.raises(UserError, match="name another folder"):
        predict(run, folder, folder.parent / "table.csv", overlays=folder)
    # A folder around the pictures is no reason to pass them over.
    assert len(predict(run, folder, folder.parent / "table.csv", overlays=folder.parent)) == 2


def test_a_network_without_a_layer_for_overlays(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    model = Classifier(run.model().net, num_classes=3)
    with pytest.raises(UserError, match="no cam_layer"):
        predict(run, folder, folder.parent / "table.csv", model, overlays=folder.parent / "cam")
    assert len(predict(run, folder, folder.parent / "table.csv", model)) == 2


def test_one_picture(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = picture(folder / "a.png", "blue"), picture(folder / "b.png")
    output, overlays = folder.parent / "new" / "table.csv", folder.parent / "new" / "overlays"
    _, row = predict(run, file, output, overlays=overlays)
    assert row[0] == "a.png"
    beside_another = predict(run, folder, folder.parent / "table.csv")[1]
    assert beside_another[:2] == row[:2]
    assert np.array(beside_another[5:], float) == pytest.approx(np.array(row[5:], float), abs=1e-6)
    assert [path.name for path in overlays.iterdir()] == ["a.png.png"]
    out = capsys.readouterr().out
    assert f"a.png: {row[1]}, {100 * float(row[2]):.1f} % sure; then {row[3]}, {row[4]}\n" in out
    assert "Wrote 1 prediction to " in out
    # Of a folder the table is enough.
    assert out.count("% sure") == 1
    # What was written before stays.
    other.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png"):
        predict(run, other, output)
    with pytest.raises(UserError, match="lies where predictions are written"):
        predict(run, overlays / "a.png.png", output)
    assert table(output)[1] == row
    assert [path.name for path in overlays.iterdir()] == ["a.png.png"]


def test_no_pictures(run: Run, folder: Path) -> None:
    with pytest.raises(UserError, match="is no folder and no picture"):
        predict(run, folder, folder.parent / "table.csv")
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    with pytest.raises(UserError, match="holds no pictures"):
        predict(run, folder, folder.parent / "table.csv")
    assert not (folder.parent / "table.csv").exists()


def test_where_nothing_can_be_written(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    in_the_way = folder.parent / "file"
    in_the_way.write_text("")
    for output, overlays in ((in_the_way / "table.csv", None), (folder.parent / "table.csv", in_the_way / "cam")):
        with pytest.raises(UserError, match="Cannot write to"):
            predict(run, folder, output, overlays=overlays)
    assert not (folder.parent / "table.csv").exists()


def test_pictures_are_made_as_large_as_the_images_that_were_learnt(folder: Path) -> None:
    given: Any = SimpleNamespace(image_size=48)
    learnt = {"Data": {"class_names": ["a"], "mean": 0, "std": 1, "image_size": (24, 40)}}
    for content, data, size in (
        (learnt, None, (24, 40)),
        (learnt, given, 48),
        (learnt, DigitsDataModule(), (24, 40)),
        # Of an older version.
        ({"datamodule_hyper_parameters": {"image_size": 16}}, DigitsDataModule(), 16),
        ({}, given, 48),
        ({}, DigitsDataModule(), 32),
        ({}, None, 32),
    ):
        assert size_of_images(data, content) == size
    file = picture(folder / "a.png", size=(40, 24))
    with Image.open(file) as image:
        assert (decode(file, (24, 40)) == np.asarray(image)).all()
    assert decode(file, (10, 30)).shape == (10, 30, 3)
    assert decode(file, 10).shape == (10, 10, 3)


def test_what_is_no_logits_is_told_of(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    model = run.model()
    vars(model)["forward"] = lambda images: (images,)
    with pytest.raises(UserError, match=r"The forward of \w+ gives a tuple for 1 images: .* needs logits"):
        predict(run, folder, folder.parent / "table.csv", model)


def test_overlays_of_a_run_before_are_no_pictures(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    output = folder / "out" / "table.csv"
    assert len(predict(run, folder, output, overlays=output.with_name("overlays"))) == 2
    assert len(predict(run, folder, output)) == 2


def test_overlays_of_other_pictures_do_not_stay(run: Run, folder: Path) -> None:
    output, overlays = folder.parent / "out" / "table.csv", folder.parent / "out" / "overlays"
    picture(folder / "a.png")
    picture(folder / "below" / "b.png")
    predict(run, folder, output, overlays=overlays)
    own = picture(overlays / "own.png")
    (folder / "below" / "b.png").unlink()
    predict(run, folder, output, overlays=overlays)
    assert sorted(path.name for path in overlays.rglob("*.png")) == ["a.png.png", "own.png"]
    predict(run, folder, output)
    assert [*overlays.rglob("*.png")] == [own]


def test_a_table_does_not_choose_what_is_removed(run: Run, folder: Path) -> None:
    picture(folder / "a.png")
    precious = picture(folder.parent / "precious.png")
    output = folder.parent / "out" / "table.csv"
    output.parent.mkdir()
    output.write_text("file,predicted\n../../precious,red\n")
    predict(run, folder, output, overlays=output.with_name("overlays"))
    assert precious.is_file()


def test_pictures_of_a_network_that_diverged(run: Run, folder: Path) -> None:
    class Diverged(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 3), torch.nan)

    picture(folder / "a.png")
    model = run.model()
    class_names, normalize = preprocessing_in(load_weights(model, run.checkpoint), run.checkpoint)
    model.net = Diverged()
    read = partial(decode, size=32, formats=FORMATS)
    with pytest.raises(UserError, match=r"output for 1 file \(a.png\) is no number: training diverged"):
        predict_pictures(model, read, normalize, folder, folder.parent / "table.csv", class_names)
    assert not (folder.parent / "table.csv").exists()
