"""What `export` writes runs elsewhere and says the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from colour_run import Run, train
from torch import nn

from cifar_lit.callbacks.averaging import EMA
from cifar_lit.classifier import Classifier
from cifar_lit.commands import export as module
from cifar_lit.commands.export import PixelClassifier, export
from cifar_lit.commands.learnt_data import Normalize, preprocessing_in
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet, DilatedSeparableNet, ResNet18, ResNetV2

MEAN, STD = torch.tensor([125.0, 123.0, 114.0]).view(3, 1, 1), torch.tensor([63.0, 62.0, 66.0]).view(3, 1, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("logs"))


def noise(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def run_onnx(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": pixels})[0])


def run_torch(path: Path, pixels: np.ndarray) -> np.ndarray:
    output: torch.Tensor = torch.export.load(path).module()(torch.from_numpy(pixels))
    return output.detach().numpy()


def test_files_agree_with_the_checkpoint_and_describe_themselves(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = run.model(), run.data()
    export(model, data, run.checkpoint, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.onnx", "model.pt2"]
    assert "50 test images" in capsys.readouterr().out

    weights = torch.load(run.checkpoint, weights_only=True)
    model.load_state_dict(weights["state_dict"])
    mean, std = weights["Colours"]["mean"], weights["Colours"]["std"]
    pixels = data.load("test").pixels
    with torch.no_grad():
        expected = model.eval()((torch.from_numpy(pixels).permute(0, 3, 1, 2) - mean) / std).numpy()
    assert np.ptp(expected) > 1, "the check below is to have something to tell apart"
    for count in (1, 5, 50):
        np.testing.assert_allclose(run_onnx(out / "model.onnx", pixels[:count]), expected[:count], atol=1e-4)
        np.testing.assert_allclose(run_torch(out / "model.pt2", pixels[:count]), expected[:count], atol=1e-4)

    description = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert description["class_names"] == ["red", "green, like grass", "blue"]
    assert description["input"]["shape"] == ["batch", 32, 32, 3]
    assert description["output"]["shape"] == ["batch", 3]
    assert description["provenance"]["recipe"] == "tiny"
    session = onnxruntime.InferenceSession(out / "model.onnx")
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 32, 32, 3], "tensor(uint8)")
    assert (taken.name, taken.shape, taken.type) == ("logits", ["batch", 3], "tensor(float)")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == description["class_names"]
    extra = {"model.json": ""}
    torch.export.load(out / "model.pt2", extra_files=extra)
    assert json.loads(extra["model.json"]) == description


def test_what_is_exported_is_the_average(tmp_path: Path) -> None:
    run = train(tmp_path, EMA(half_life=0.5, start=0.0))
    export(run.model(), run.data(), run.checkpoint, tmp_path / "out")
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    pixels = run.data().load("test").pixels
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - checkpoint["Colours"]["mean"]) / checkpoint["Colours"][
        "std"
    ]
    model, expected = run.model().eval(), []
    for weights in (checkpoint["state_dict"], checkpoint["callbacks"]["EMA"]["live"]):
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            expected.append(model(images).numpy())
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(run_onnx(tmp_path / "out" / "model.onnx", pixels), expected[0], atol=1e-4)
    np.testing.assert_allclose(run_torch(tmp_path / "out" / "model.pt2", pixels), expected[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: ResNetV2(11), ResNet18, DilatedSeparableNet, DepthwiseNet])
def test_every_other_architecture(build: Callable[[], Classifier], tmp_path: Path) -> None:
    model = build()
    # Fresh networks of some architectures give much the same for every image.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    network = PixelClassifier(Normalize(MEAN, STD), model).eval()
    onnx, torch_export = tmp_path / "a.onnx", tmp_path / "a.pt2"
    runs = [
        module._onnx(network, torch.from_numpy(noise(1)), {}, onnx),
        module._torch_export(network, torch.from_numpy(noise(1)), {}, torch_export),
    ]
    for count in (1, 5):
        with torch.no_grad():
            expected = network(torch.from_numpy(noise(count))).numpy()
        scale = np.abs(expected).max()
        for run in runs:
            np.testing.assert_allclose(run(noise(count)) / scale, expected / scale, atol=1e-5)


def test_a_file_that_disagrees_is_not_written_and_the_one_before_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brighter(Normalize):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels) + 1e-3

    def brighter(*args: Any) -> tuple[tuple[str, ...], Normalize]:
        names, normalize = preprocessing_in(*args)
        return names, Brighter(normalize.mean, normalize.std)

    monkeypatch.setattr(module, "preprocessing_in", brighter)
    (tmp_path / "model.onnx").write_bytes(b"the one before")
    for output_format, name in (("onnx", "model.onnx"), ("torch", "model.pt2")):
        with pytest.raises(UserError, match=rf"{name} was not written: on 50 test images .* more than 0\.0001"):
            export(run.model(), run.data(), run.checkpoint, tmp_path, output_format)  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"the one before")]


def test_one_that_is_not_asked_for_does_not_stay_beside_another_description(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"of another checkpoint")
    (tmp_path / "notes.txt").write_text("not ours")
    export(run.model(), run.data(), run.checkpoint, tmp_path, "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt2", "notes.txt"]


def test_nan_never_agrees(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_torch_export", lambda *_: lambda pixels: np.full((len(pixels), 3), np.nan))
    with pytest.raises(UserError, match="not written"):
        export(run.model(), run.data(), run.checkpoint, tmp_path, "torch")


def test_missing_packages_are_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else "there")
    with pytest.raises(UserError, match="pip install onnxscript"):
        export(run.model(), run.data(), run.checkpoint, tmp_path, "onnx")
    assert not list(tmp_path.iterdir())
    export(run.model(), run.data(), run.checkpoint, tmp_path, "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt2"]


def test_images_are_wanted(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No data is given"):
        export(run.model(), None, run.checkpoint, tmp_path)


def checkpoint_of(run: Run, path: Path, **changes: Any) -> Path:
    torch.save({**torch.load(run.checkpoint, weights_only=True), **changes}, path)
    return path


@pytest.mark.parametrize("normalize", ["pixel_mean", "none"])
def test_every_normalisation(run: Run, tmp_path: Path, normalize: str) -> None:
    data = run.data(normalize=normalize)
    data.setup()
    checkpoint = checkpoint_of(run, tmp_path / "a.ckpt", Colours=data.state_dict())
    # Compiling is for training: here it would cost a minute, and a compiler.
    export(run.model(compile_mode="default"), data, checkpoint, tmp_path, "torch")
    with pytest.raises(UserError, match="not written"):
        export(run.model(), run.data(), checkpoint, tmp_path, "torch")


def test_normalisation_that_a_checkpoint_does_not_keep(run: Run, tmp_path: Path) -> None:
    transforms = [{"class_path": "albumentations.Normalize", "init_args": {}}]
    checkpoint = checkpoint_of(run, tmp_path / "a.ckpt", datamodule_hyper_parameters={"transforms": transforms})
    with pytest.raises(UserError, match="its list of transforms normalised"):
        export(run.model(), run.data(), checkpoint, tmp_path)
    checkpoint = checkpoint_of(run, tmp_path / "b.ckpt", Colours={})
    with pytest.raises(UserError, match="does not say how"):
        export(run.model(), run.data(), checkpoint, tmp_path)
