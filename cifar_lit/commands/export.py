"""A trained network as a file that runs without this project: ONNX, or torch.export."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.classes import check_classes
from cifar_lit.commands.evaluation import gather_provenance, image_data, load_weights, normalised_images
from cifar_lit.commands.learnt_data import preprocessing_in, take_learnt
from cifar_lit.commands.outputs import outputs_of
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.files import ready_to_write, write_atomically, writing
from cifar_lit.runs import run_of

Format = Literal["onnx", "torch", "both"]
Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]

ONNX, TORCH, DESCRIPTION = "model.onnx", "model.pt2", "model.json"
NEEDED_FOR_ONNX = ("onnx", "onnxscript", "onnxruntime")
# Test images that an exported file must agree on, and the largest difference of a logit.
CHECKED_IMAGES = 256
CHECKED_BATCH = 64
TOLERANCE = 1e-4


class PixelClassifier(nn.Module):
    """A network that takes pixels as image readers give them, uint8 (N, H, W, 3), RGB, and normalises them itself.

    Whoever runs it then has no statistics to get wrong, and sends a quarter of the bytes.

    Args:
        normalize: Maps pixels to normalised images, float32 (N, 3, H, W).
        net: Maps those to logits.
    """

    def __init__(self, normalize: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps pixels, uint8 (N, H, W, 3), to logits float32 (N, num_classes)."""
        logits: Tensor = self.net(self.normalize(pixels))
        return logits


def export(
    model: LightningModule,
    datamodule: LightningDataModule | None,
    checkpoint: Path,
    output_dir: Path,
    output_format: Format = "both",
) -> None:
    """Writes ``model.onnx`` and ``model.pt2``, and ``model.json`` that describes them.

    Both map pixels, uint8 (N, H, W, 3), RGB, of any N and the training images' size, to logits float32
    (N, num_classes). They are put in place only after each ran, and agreed on real test images with the checkpoint
    behind the data module's normalisation to 1e-4 in every logit. One that is not asked for is removed: it would be
    of a run before.

    Args:
        model: Built with the settings of the checkpoint's run.
        datamodule: Its data; up to 256 test images are looked at.
        checkpoint: Whose weights to take.
        output_dir: Where to write; files of other names there stay.
        output_format: ``onnx``, ``torch`` for torch.export, or ``both``.

    Raises:
        UserError: A package is missing, the checkpoint is of another architecture or number of classes, there are no
            images to check with, or a file disagrees with the checkpoint; a file that was there before then stays.
    """
    missing = [name for name in NEEDED_FOR_ONNX if find_spec(name) is None]
    if missing and output_format != "torch":
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)}, or give --format=torch.")
    data = image_data(datamodule)
    ready_to_write(output_dir)
    take_learnt(load_checkpoint(checkpoint), data, checkpoint)
    content = load_weights(model.eval(), checkpoint)
    class_names, normalize = preprocessing_in(content, checkpoint)
    data.prepare_data()
    data.setup("test")
    count = len(data.test_images.labels)
    # Spread over the split, which may be sorted by class.
    indices = np.linspace(0, count - 1, min(count, CHECKED_IMAGES)).astype(np.int64)
    pixels: Pixels = data.test_images.pixels[indices]
    # A batch of one beside larger ones: an export may hold only for the size that it saw.
    batches = [slice(0, 1), *(slice(i, i + CHECKED_BATCH) for i in range(1, len(indices), CHECKED_BATCH))]
    images = normalised_images(data, indices)
    # Compiling for a few batches takes longer than they do.
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        expected: Logits = torch.cat([outputs_of(model, images[batch]) for batch in batches]).numpy()
    check_classes(type(model).__name__, expected.shape[1], data, "predict")

    said: list[str] = []
    network = PixelClassifier(normalize, model).eval()
    description = _description(class_names, pixels, gather_provenance(content, checkpoint, run_of(checkpoint)))
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".") as folder:
        for name, save_and_load in ((ONNX, _onnx), (TORCH, _torch_export)):
            if output_format not in ("both", "onnx" if name == ONNX else "torch"):
                continue
            file = Path(folder) / name
            run = save_and_load(network, torch.from_numpy(pixels[:1]), description, file)
            given = np.concatenate([run(pixels[batch]) for batch in batches])
            difference = np.abs(given - expected).max()
            # Said so that NaN fails, too.
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{name} was not written: on {len(pixels)} test images its logits differ from the checkpoint's by "
                    f"up to {difference:.2g}, more than {TOLERANCE:g}. Check that data and checkpoint belong together."
                )
            said.append(f"Wrote {output_dir / name}: agrees on {len(pixels)} test images to {difference:.1g}")
        # One of a run before would stand beside a description that is not its own.
        for name in (ONNX, TORCH):
            (output_dir / name).unlink(missing_ok=True)
        for file in Path(folder).iterdir():
            file.replace(output_dir / file.name)
    write_atomically(output_dir / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    say("\n".join(said))


def _description(class_names: tuple[str, ...], pixels: Pixels, provenance: Mapping[str, str]) -> dict[str, Any]:
    return {
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", *pixels.shape[1:]],
            "layout": "NHWC, RGB, 0 to 255, not normalised",
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(class_names)]},
        "class_names": list(class_names),
        "provenance": dict(provenance),
    }


def _onnx(
    network: nn.Module, example: Tensor, description: Mapping[str, Any], path: Path
) -> Callable[[Pixels], Logits]:
    import onnxruntime

    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        network,
        (_several(example),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
    with writing(path):
        program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"images": pixels})[0]


def _torch_export(
    network: nn.Module, example: Tensor, description: Mapping[str, Any], path: Path
) -> Callable[[Pixels], Logits]:
    # It stores weights as they lie in memory, and warns of any but the plain layout.
    network = network.to(memory_format=torch.contiguous_format)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (_several(example),), dynamic_shapes=({0: batch},))
    # Written by torch itself, a full disk ends the process.
    whole = io.BytesIO()
    torch.export.save(program, whole, extra_files={DESCRIPTION: json.dumps(description)})
    with writing(path):
        path.write_bytes(whole.getvalue())
    loaded = torch.export.load(path).module()
    return lambda pixels: loaded(torch.from_numpy(pixels)).detach().numpy()


def _several(example: Tensor) -> Tensor:
    """The example twice: a network traced with one image may hold for one only."""
    return torch.cat([example, example])
