"""The images that the results are of can be made again."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from benchmarks import jpeg_images, measure
from cifar_lit.data import CIFAR10DataModule


def test_jpeg_images_are_pillows_at_quality_75_in_the_published_order(
    cifar10_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = tmp_path / "jpeg", ["--root", str(cifar10_root), "--to", str(tmp_path / "jpeg")]
    with pytest.raises(SystemExit, match="NOT those that the results are of"):
        jpeg_images.main(options)
    for split, count in (("train", 100), ("test", 20)):
        images = CIFAR10DataModule(root=str(cifar10_root)).load(split)  # type: ignore[arg-type]
        assert len(list((folder / split).rglob("*.jpg"))) == count
        # The second horse.
        expected = io.BytesIO()
        Image.fromarray(images.pixels[np.flatnonzero(images.labels == 7)[1]]).save(expected, "JPEG", quality=75)
        file = folder / split / "horse" / "0001.jpg"
        assert file.read_bytes() == expected.getvalue()
        assert get_sampling(Image.open(file)) == 2  # 4:2:0
    digests = {split: jpeg_images.sha256_of(folder, split) for split in ("train", "test")}
    assert re.fullmatch("other-jpeg-[0-9a-f]{6}", measure.kind_of(str(folder)))
    # Another folder of this name.
    assert measure.kind_of(str(tmp_path / "more" / "jpeg")) != measure.kind_of(str(folder))
    monkeypatch.setattr(jpeg_images, "SHA256", digests)
    measure.kind_of.cache_clear()
    jpeg_images.main(options)
    assert "the images that the results are of" in capsys.readouterr().out
    assert measure.kind_of(str(folder)) == "jpeg"
    (folder / "test" / "horse" / "._0001.jpg").touch()
    assert jpeg_images.are_those(folder)
    (folder / "test" / "horse" / "1.PNG").touch()
    assert not jpeg_images.are_those(folder)
    (folder / "test" / "horse" / "1.PNG").unlink()
    (folder / "test" / "horse" / "0001.jpg").rename(folder / "test" / "horse" / "0009.jpg")
    assert jpeg_images.sha256_of(folder, "test") != digests["test"]
