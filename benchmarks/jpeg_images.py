"""Makes the JPEG images that the results are of: CIFAR-10, each image saved by Pillow at quality 75, colours halved.

    python -m benchmarks.jpeg_images [--root data] [--to data/cifar10-jpeg]

Downloads CIFAR-10 to `--root` unless it is there, writes ``train/<class>/0000.jpg`` and so on in the published order,
and says whether the files are those that were measured, byte for byte; if not, it ends with status 1. They cost
accuracy: compare like with like.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from cifar_lit.console import hush_libraries
from cifar_lit.data import CIFAR10DataModule

# Where they are put unless told otherwise.
PLACE = Path("data", "cifar10-jpeg")
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
# Pillow's own default, with which it halves the resolution of colours in both directions (4:2:0).
QUALITY = 75
# Of the images that the results are of.
SHA256 = {
    "train": "23f6f435acf80b2820d281bffb7054a4cc07f8f622231da42de3596556762629",
    "test": "086796e30d00a7cf61152af2ac1419d4e4ff83fff4602bc655af2e0b1cb9f8f4",
}


def write(data: CIFAR10DataModule, split: Literal["train", "test"], folder: Path) -> None:
    """Writes a split as JPEG files, a folder a class, numbered in the order of the data set."""
    images, count = data.load(split), Counter[str]()
    for name in data.class_names:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for pixels, label in zip(images.pixels, images.labels, strict=True):
        name = data.class_names[label]
        Image.fromarray(pixels).save(folder / split / name / f"{count[name]:04}.jpg", quality=QUALITY)
        count[name] += 1


def are_those(folder: Path) -> bool:
    """Whether a folder holds the images that the results are of."""
    return all(sha256_of(folder, split) == digest for split, digest in SHA256.items())


def sha256_of(folder: Path, split: str) -> str:
    """Of the names and bytes of a split's files; hidden ones are no images."""
    digest = hashlib.sha256()
    for file in sorted(path for path in (folder / split).rglob("[!.]*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main(args: Sequence[str] | None = None) -> None:
    """Writes and compares."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="data", help="holds CIFAR-10, or will")
    options.add_argument("--to", type=Path, default=PLACE, help="folder for the JPEG images")
    given = options.parse_args(args)
    hush_libraries()
    data = CIFAR10DataModule(root=given.root)
    data.prepare_data()
    for split in SPLITS:
        write(data, split, given.to)
    if not are_those(given.to):
        sys.exit(
            f"The images in {given.to} are NOT those that the results are of: this Pillow writes other bytes, or the "
            "folder held other files."
        )
    print(f"Wrote {given.to}: the images that the results are of")


if __name__ == "__main__":
    main()
