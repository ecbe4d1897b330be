import io
import re
from collections.abc import Callable
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.combined_loader import CombinedLoader

from cifar_lit.data import statistics
from cifar_lit.data.batches import BatchLoader, TrainingPlan
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.images import Images, stratified_split
from cifar_lit.data.statistics import channel_statistics
from cifar_lit.errors import UserError

CLASSES = ("cat", "dog", "emu")


class TinyDataModule(ImageDataModule):
    """60 training images of three classes, 30 of them cats; 20 for testing."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def load(self, split: Literal["train", "test"]) -> Images:
        count, seed = (60, 0) if split == "train" else (20, 1)
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        # Channels of unlike mean and deviation, so that a mix-up shows.
        return Images(pixels // np.array([1, 2, 4], dtype=np.uint8), np.arange(count) % 4 % 3)


def ready(**settings: Any) -> TinyDataModule:
    data = TinyDataModule(**settings)
    data.setup()
    return data


def images_of(images: Images | None) -> NDArray[np.uint8]:
    assert images is not None
    return images.pixels


def rows(images: Images | None) -> set[bytes]:
    return {image.tobytes() for image in images_of(images)}


def normalised(data: ImageDataModule, pixels: NDArray[np.uint8]) -> torch.Tensor:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images, same_labels = data.on_after_batch_transfer([torch.from_numpy(pixels), labels], 0)
    assert same_labels is labels
    assert isinstance(images, torch.Tensor)
    return images


def labels_over(loader: BatchLoader) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


@pytest.mark.parametrize("held_out", [1, 7, 60, 250, 997, 0.001, 0.1, 0.5, 0.9])
def test_split_holds_every_class_out_in_proportion(held_out: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 300, 600]))
    kept, held = stratified_split(labels, held_out, seed=1)
    count = round(held_out * 1000) if held_out < 1 else held_out
    assert len(held) == count
    assert sorted([*kept, *held]) == list(range(1000))
    assert kept.tolist() == sorted(kept)
    assert held.tolist() == sorted(held)
    exact = np.array([100, 300, 600]) * count / 1000
    assert np.all(np.abs(np.bincount(labels[held], minlength=3) - exact) < 1)
    assert np.all(np.bincount(labels[kept], minlength=3) > 0)


def test_of_many_small_classes_chance_says_which_are_held_out() -> None:
    labels = np.arange(200).repeat(5)
    held = [set(labels[stratified_split(labels, 0.1, seed)[1]].tolist()) for seed in (0, 1)]
    assert len(held[0]) == len(held[1]) == 100
    assert held[0] != held[1]
    assert 30 < len(held[0] & set(range(100))) < 70


def test_split_leaves_one_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [1, 2, 47])
    for held_out in range(1, 48):
        kept, held = stratified_split(labels, held_out, seed=0)
        assert len(held) == held_out
        assert set(labels[kept]) == {0, 1, 2}


def test_split_is_decided_by_its_seed_alone() -> None:
    labels = np.arange(200) % 10
    np.random.seed(0)  # noqa: NPY002
    first = stratified_split(labels, 50, seed=0)[1]
    np.random.seed(1)  # noqa: NPY002
    assert stratified_split(labels, 50, seed=0)[1].tolist() == first.tolist()
    assert stratified_split(labels, 50, seed=1)[1].tolist() != first.tolist()


@pytest.mark.parametrize("held_out", [-1, -0.1, 0.001, 191, 200, 201, 1e9, 0.99, float("nan"), float("inf")])
def test_split_that_does_not_fit_is_an_error(held_out: float) -> None:
    with pytest.raises(UserError, match=rf"val_size {held_out} does not fit 200 training images of 10 classes: give"):
        stratified_split(np.arange(200) % 10, held_out, seed=0)


@pytest.mark.parametrize(("val_size", "count"), [(12, 12), (1, 1), (0.1, 6), (0.25, 15)])
def test_val_size_is_a_number_or_a_share(val_size: float, count: int) -> None:
    data = ready(val_size=val_size)
    assert len(images_of(data.val_images)) == count
    assert len(images_of(data.train_images)) == 60 - count
    whole = data.load("train")
    assert rows(data.train_images) | rows(data.val_images) == rows(whole)
    assert not rows(data.train_images) & rows(data.val_images)
    # Images kept their labels.
    label_of = {image.tobytes(): label for image, label in zip(whole.pixels, whole.labels, strict=True)}
    for images in (data.train_images, data.val_images):
        assert images is not None
        assert [label_of[image.tobytes()] for image in images.pixels] == images.labels.tolist()


def test_val_size_0_validates_on_the_test_split_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(val_size=0)
    assert data.val_images is data.test_images
    assert len(images_of(data.train_images)) == 60
    said = capsys.readouterr().out
    assert "validating on the test split" in said
    assert said.count("\n") == 1
    ready(val_size=0.1)
    assert capsys.readouterr().out == ""


def test_val_size_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(UserError, match="val_size 5000 does not fit 60 training images of 3 classes"):
        ready(val_size=5000)


def test_held_out_images_depend_on_split_seed_and_not_on_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = images_of(ready(seed=1).val_images)
    assert np.array_equal(images_of(ready(seed=2).val_images), first)
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    assert np.array_equal(images_of(ready().val_images), first)
    assert not np.array_equal(images_of(ready(split_seed=1).val_images), first)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("batch_size", 0, 1), ("batch_size", -5, 1), ("num_workers", -1, 0), ("seed", -1, 0), ("split_seed", -2, 0)],
)
def test_a_number_below_its_range_is_an_error(name: str, value: int, least: int) -> None:
    wrong: dict[str, Any] = {name: value}
    right: dict[str, Any] = {name: least}
    with pytest.raises(UserError, match=f"{name} is {value}: give a whole number of at least {least}"):
        TinyDataModule(**wrong)
    TinyDataModule(**right)


def test_setup_loads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready()
    monkeypatch.setattr(data, "load", lambda split: pytest.fail("loaded again"))
    data.setup("fit")
    data.setup("test")


def training_order(**settings: Any) -> list[int]:
    """The label of every image of an epoch."""
    return labels_over(ready(batch_size=7, val_size=6, **settings).train_dataloader())


def test_training_follows_the_plan_of_its_seed() -> None:
    images = ready(val_size=6).train_images
    assert images is not None
    plan = TrainingPlan(54, 7, seed=3)
    planned = [int(images.labels[i]) for step in range(len(plan)) for i in plan.key(0, step).indices]
    assert training_order(seed=3) == planned
    assert training_order(seed=4) != planned


def test_without_a_seed_it_takes_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    assert training_order() == training_order(seed=3)
    assert training_order(seed=4) != training_order(seed=3)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert training_order() == training_order(seed=0)


def test_drop_last_leaves_the_smaller_batch_out() -> None:
    loader = ready(batch_size=7, val_size=6, drop_last=True).train_dataloader()
    assert [len(labels) for _, labels in loader] == [7] * 7


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_sees_every_image_once_in_order_and_not_augmented(split: str) -> None:
    data = ready(val_size=12, transforms=[A.InvertImg(p=1)])
    loader = getattr(data, f"{split}_dataloader")()
    pixels = np.concatenate([images.numpy() for images, _ in loader])
    assert np.array_equal(pixels, images_of(data.val_images if split == "val" else data.test_images))


def test_training_images_are_augmented() -> None:
    data = ready(val_size=12, transforms=[A.InvertImg(p=1)])
    seen = {image.tobytes() for images, _ in data.train_dataloader() for image in images.numpy()}
    assert seen == {(255 - image).tobytes() for image in images_of(data.train_images)}


def test_that_a_checkpoint_lacks_what_normalised_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    own, plain = ready(transforms=[A.Normalize()]), ready()
    for data in (ready(transforms=[A.Normalize()]), ready(transforms=[A.ToFloat()])):
        data.load_state_dict(own.state_dict())
    plain.load_state_dict(ready().state_dict())
    assert "normalised by its own transforms" not in capsys.readouterr().out
    plain.load_state_dict(own.state_dict())
    assert "normalised by its own transforms, which are not in it: give those, too." in capsys.readouterr().out
    own.load_state_dict(ready().state_dict())
    assert "The transforms normalise, and the checkpoint's did not: leave Normalize" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["mean", "std"])
def test_a_normalisation_of_another_number_of_channels_is_refused(option: str) -> None:
    # albumentations would take the first of two.
    with pytest.raises(UserError, match=rf"Normalize has {option} \(0.5, 0.4\): give one number, or one a channel"):
        TinyDataModule(transforms=[A.Normalize(**{"mean": 0.5, "std": 0.5, option: (0.5, 0.4)})])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        data = ready(seed=0, num_workers=workers, batch_size=16, transforms=[A.Affine(rotate=(-90, 90), p=1)])
        loader = data.train_dataloader()
        images = [images for images, _ in loader]
        # As at the end of a run: the garbage collector would take five seconds for each worker.
        CombinedLoader(loader).reset()
        return images

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(num_workers), strict=True))


def test_workers_start_only_where_there_is_work_for_them() -> None:
    data = ready(num_workers=2, transforms=[A.HorizontalFlip()])
    assert data.train_dataloader()._loader.num_workers == 2
    assert data.val_dataloader()._loader.num_workers == 0
    # On a CPU they would only take cores away from the network.
    assert ready(transforms=[A.HorizontalFlip()]).train_dataloader()._loader.num_workers == 0


def expected_statistics(normalize: str, pixels: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    scaled = pixels.astype(np.float64) / 255
    if normalize == "channel":
        return scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
    if normalize == "pixel_mean":
        return scaled.mean(axis=0), np.ones(1)
    return np.zeros(1), np.ones(1)


@pytest.mark.parametrize("normalize", ["channel", "pixel_mean", "none"])
def test_batches_are_normalised_as_numpy_would(normalize: Literal["channel", "pixel_mean", "none"]) -> None:
    data = ready(normalize=normalize)
    # Of all training images, whether or not they are held out.
    mean, std = expected_statistics(normalize, data.load("train").pixels)
    pixels = images_of(data.test_images)
    images = normalised(data, pixels)
    expected = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)

    mean32, std32 = (np.float32(s) * np.float32(255) for s in (mean, std))
    in_float32 = (pixels.astype(np.float32) - mean32) / std32
    if normalize != "pixel_mean":  # Its mean image is rounded once, after the scaling.
        assert np.array_equal(images.numpy(), in_float32.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("normalize", ["channel", "pixel_mean", "none"])
def test_normalised_batches_are_float32_in_channels_last(normalize: Literal["channel", "pixel_mean", "none"]) -> None:
    data = ready(normalize=normalize)
    images = normalised(data, images_of(data.test_images))
    assert images.dtype is torch.float32
    assert images.shape == (20, 3, 8, 8)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_labels_may_come_as_a_list() -> None:
    class Listing(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(images.pixels, images.labels.tolist())

    data = Listing()
    data.setup()
    assert data.test_images is not None
    np.testing.assert_array_equal(data.test_images.labels, np.arange(20) % 4 % 3)


def test_a_mean_of_each_pixel_wants_transforms_that_keep_the_size() -> None:
    data = ready(normalize="pixel_mean", transforms=[A.RandomCrop(height=6, width=6)])
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(UserError, match=r"of 8×8, and these images have 6×6: give --data\.normalize=channel"):
        data.on_after_batch_transfer([*batch], 0)


def test_a_channel_without_contrast_is_not_divided_by_zero() -> None:
    class GreyDataModule(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(np.full_like(images.pixels, 100), images.labels)

    data = GreyDataModule()
    data.setup()
    images = normalised(data, images_of(data.test_images))
    assert images.abs().max() < 1e-3


@pytest.mark.parametrize("executor", ["device", "workers"])
def test_a_list_that_normalises_itself_is_only_turned(executor: Literal["device", "workers"]) -> None:
    data = ready(executor=executor, transforms=[A.Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))])
    raw, _ = next(iter(data.train_dataloader()))
    images, _ = data.on_after_batch_transfer([raw, torch.zeros(len(raw))], 0)
    assert raw.dtype is images.dtype is torch.float32
    assert torch.equal(images, raw.permute(0, 3, 1, 2))
    assert images.shape[1:] == (3, 8, 8)
    assert images.min() >= -1
    assert images.max() <= 1


@pytest.mark.parametrize("executor", ["device", "workers"])
def test_what_normalises_training_images_normalises_the_others_too(executor: Literal["device", "workers"]) -> None:
    data = ready(executor=executor, transforms=[A.HorizontalFlip(), A.Normalize(mean=(0.5,) * 3, std=(0.5,) * 3)])
    batch = next(iter(data.test_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    assert data.test_images is not None
    expected = data.test_images.pixels[: len(images)].transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("executor", ["auto", "workers"])
def test_what_is_scaled_back_does_not_normalise(executor: Literal["auto", "workers"]) -> None:
    data = ready(
        executor=executor, transforms=[A.ToFloat(), A.GaussNoise(std_range=(0, 0)), A.FromFloat(dtype="uint8")]
    )
    for loader in (data.train_dataloader(), data.test_dataloader()):
        raw, _ = next(iter(loader))
        assert raw.dtype is torch.uint8


def test_a_composition_may_scale_and_scale_back() -> None:
    inner = A.Sequential([A.ToFloat(), A.GaussNoise(std_range=(0, 0)), A.FromFloat(dtype="uint8")], p=1)
    assert next(iter(ready(transforms=[inner]).train_dataloader()))[0].dtype is torch.uint8


@pytest.mark.parametrize("inner", [A.Normalize(), A.OneOf([A.ToFloat()])])
def test_what_normalises_stands_in_the_list_itself(inner: Any) -> None:
    with pytest.raises(UserError, match="Take Normalize and ToFloat out of Compose"):
        TinyDataModule(transforms=[A.Compose([A.HorizontalFlip(), inner])])


def test_who_makes_the_batches_goes_by_the_images_size(capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(transforms=[A.RandomCrop(6, 8)])
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (6, 8, 3)
    assert "Batches from the device executor" in capsys.readouterr().out


def test_images_that_are_no_piece_of_memory_are_made_one() -> None:
    class Turned(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(images.pixels[..., ::-1], images.labels)

    data = Turned(val_size=0)
    data.setup()
    images, _ = next(iter(data.test_dataloader()))
    assert torch.equal(images.flip(3), next(iter(ready(val_size=0).test_dataloader()))[0])


@pytest.mark.parametrize("given", [[A.ToTensorV2()], A.ToTensorV2(), [A.OneOf([A.ToTensorV2()], p=1)]])
def test_to_tensor_has_no_place_in_the_list(given: Any) -> None:
    with pytest.raises(UserError, match="Leave ToTensorV2 out"):
        TinyDataModule(transforms=given)


@pytest.mark.parametrize("given", [A.InvertImg(p=1), A.Compose([A.InvertImg(p=1)])])
def test_one_transform_and_a_compose_are_lists_as_well(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(val_size=12, transforms=given)
    seen = {image.tobytes() for images, _ in data.train_dataloader() for image in images.numpy()}
    assert seen == {(255 - image).tobytes() for image in images_of(data.train_images)}
    assert "Batches from" in capsys.readouterr().out


def test_what_a_compose_normalises_is_found() -> None:
    assert [type(one) for one in ready(transforms=A.Compose([A.Normalize()])).scaling] == [A.Normalize]


@pytest.mark.parametrize(
    ("composition", "outcomes"),
    [
        # One of them, and neither both nor none.
        (A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1), (np.fliplr, np.flipud)),
        (A.Compose([A.HorizontalFlip(p=1)], p=0.0), (np.copy,)),
    ],
)
def test_a_composition_stays_what_it_is(composition: Any, outcomes: tuple[Callable[..., Any], ...]) -> None:
    data = ready(val_size=12, transforms=composition)
    seen = {image.tobytes() for images, _ in data.train_dataloader() for image in images.numpy()}
    kinds = [{outcome(image).tobytes() for image in images_of(data.train_images)} for outcome in outcomes]
    assert seen <= set().union(*kinds)
    assert all(seen & kind for kind in kinds)


@pytest.mark.parametrize("transform", [A.Normalize(p=0.5), A.ToFloat(p=0.9)])
def test_whether_images_are_normalised_is_not_left_to_chance(transform: Any) -> None:
    with pytest.raises(UserError, match=rf"{type(transform).__name__} has p 0.[59]: give p: 1"):
        TinyDataModule(transforms=[transform])


@pytest.mark.parametrize("normalization", ["standard", "image", "image_per_channel", "min_max", "min_max_per_channel"])
def test_every_way_that_albumentations_normalises_makes_float32(normalization: Any) -> None:
    data = ready(transforms=[A.HorizontalFlip(), A.Normalize(normalization=normalization)])
    for loader in (data.train_dataloader(), data.test_dataloader()):
        images, _ = data.on_after_batch_transfer(next(iter(loader)), 0)
        assert images.dtype is torch.float32
        assert images.abs().max() < 10


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"executor": "Device"}, "executor is 'Device': give one of auto, device, workers"),
        ({"normalize": "pixel-mean"}, "normalize is 'pixel-mean': give one of channel, pixel_mean, none"),
        ({"batch_size": 12.5}, "batch_size is 12.5: give a whole number of at least 1"),
    ],
)
def test_a_misspelt_argument_is_refused_from_python_too(argument: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        TinyDataModule(**argument)


def test_images_may_be_read_only(recwarn: pytest.WarningsRecorder) -> None:
    class Mapped(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            images.pixels.flags.writeable = images.labels.flags.writeable = False
            return images

    data = Mapped(val_size=0)
    data.setup()
    next(iter(data.train_dataloader()))
    assert not [str(warning.message) for warning in recwarn if "writ" in str(warning.message)]


def test_state_tells_class_names_and_statistics() -> None:
    assert TinyDataModule().state_dict() == {}
    data = ready(normalize="channel")
    state = data.state_dict()
    assert set(state) == {"class_names", "image_size", "mean", "std", "scaled"}
    assert state["image_size"] == 8
    assert state["class_names"] == list(CLASSES)
    pixels = data.load("train").pixels.reshape(-1, 3)
    np.testing.assert_allclose(state["mean"].flatten(), pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(state["std"].flatten(), pixels.std(axis=0), rtol=1e-5)


class Brighter(TinyDataModule):
    def load(self, split: Literal["train", "test"]) -> Images:
        images = super().load(split)
        return Images(images.pixels // 2 + 100, images.labels)


@pytest.mark.parametrize("normalize", ["channel", "pixel_mean", "none"])
@pytest.mark.parametrize("set_up_before", [False, True])
def test_a_trained_network_gets_images_as_it_learnt_them(normalize: Any, set_up_before: bool) -> None:
    learnt = ready(normalize=normalize)
    other = Brighter(normalize=normalize)
    if set_up_before:
        other.setup()
    other.load_state_dict(learnt.state_dict())
    other.setup()
    pixels = images_of(learnt.test_images)
    assert torch.equal(normalised(other, pixels), normalised(learnt, pixels))
    # Unless another way is asked for.
    asked, own = Brighter(normalize="channel" if normalize == "none" else "none"), Brighter()
    own.normalize = asked.normalize
    asked.load_state_dict(learnt.state_dict())
    asked.setup()
    own.setup()
    assert torch.equal(normalised(asked, pixels), normalised(own, pixels))
    # A network that is trained afresh begins with what its images are.
    other.setup("fit")
    fresh = Brighter(normalize=normalize)
    fresh.setup()
    assert torch.equal(normalised(other, pixels), normalised(fresh, pixels))


def test_a_checkpoint_of_other_classes_is_refused() -> None:
    data = ready()
    with pytest.raises(UserError, match=r"other classes than those of the data \(ant where they have dog\)"):
        data.load_state_dict({**data.state_dict(), "class_names": ["cat", "ant", "emu"]})
    with pytest.raises(UserError, match=r"\(none where they have emu\)"):
        data.load_state_dict({**data.state_dict(), "class_names": ["cat", "dog"]})


@pytest.mark.parametrize(
    ("names", "said"),
    [(("cat", 1, "emu"), "class_names holds 1, which is no text"), (("cat", "emu", "cat"), "has 'cat' twice")],
)
def test_names_of_classes_are_texts_that_differ(names: tuple[Any, ...], said: str) -> None:
    class Named(TinyDataModule):
        class_names = names

    with pytest.raises(UserError, match=said):
        Named().setup()


def test_num_classes_follows_class_names() -> None:
    assert TinyDataModule().num_classes == 3


def test_hyperparameters_are_plain_data() -> None:
    data = ready(transforms=[A.HorizontalFlip()], batch_size=4, seed=9)
    assert data.hparams["batch_size"] == 4
    assert data.hparams["seed"] == 9
    assert "transforms" not in data.hparams
    plain = TinyDataModule(transforms=[{"class_path": "HorizontalFlip"}])
    assert plain.hparams["transforms"] == [{"class_path": "HorizontalFlip"}]
    # What a checkpoint holds of the data can be read without running anything.
    saved = io.BytesIO()
    torch.save({"hparams": dict(data.hparams), "state": data.state_dict()}, saved)
    saved.seek(0)
    assert torch.load(saved, weights_only=True)["hparams"] == dict(data.hparams)


def test_arguments_of_a_subclass_are_hyperparameters(noise: Callable[..., Images]) -> None:
    class SeededDataModule(TinyDataModule):
        def __init__(self, start: int = 5, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.start = start

    hparams = dict(SeededDataModule(start=6, batch_size=3).hparams)
    assert (hparams["start"], hparams["batch_size"]) == (6, 3)


def test_statistics_of_many_pixels_are_those_of_their_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = ready().load("train")
    whole = channel_statistics(train)
    mean, std = cv2.meanStdDev(train.pixels.reshape(-1, train.pixels.shape[2], 3))
    assert whole == ((mean[:, 0] / 255).tolist(), (std[:, 0] / 255).tolist())
    # The last block is a smaller one.
    monkeypatch.setattr(statistics, "MOST_PIXELS", 7 * train.pixels.shape[2])
    for found, expected in zip(channel_statistics(train), whole, strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("pixels", "labels", "words"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), np.zeros(4, np.int64), r"pixels float32 (4, 8, 8, 3): give uint8"),
        (np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), r"pixels uint8 (4, 8, 8, 1): give uint8"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64), r"pixels uint8 (4, 3, 8, 8): give uint8"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, np.int64), r"labels int64 (3,) for 4 images"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4), r"labels float64 (4,) for 4 images"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), "labels from 0 to 3: of 3 class names they are 0 to 2"),
    ],
)
def test_what_is_loaded_is_looked_at(pixels: NDArray[Any], labels: NDArray[Any], words: str) -> None:
    class Wrong(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            return Images(pixels, labels)

    with pytest.raises(UserError, match=re.escape(f"Wrong.load('train') gives {words}")):
        Wrong(val_size=0).setup()


def test_size_and_labels_are_those_of_what_is_loaded() -> None:
    class Oblong(TinyDataModule):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(images.pixels[:, :6], images.labels.astype(np.uint8))

    data = Oblong()
    data.setup()
    assert data.state_dict()["image_size"] == (6, 8)
    assert next(iter(data.train_dataloader()))[1].dtype == torch.int64
    assert ready().state_dict()["image_size"] == 8


def test_a_checkpoint_of_images_of_another_size_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    data = TinyDataModule()
    data.normalise_as({**ready().state_dict(), "image_size": 64})
    data.setup()
    assert "says that it learnt from images of 64 pixels a side, and these have 8" in capsys.readouterr().out


@pytest.mark.parametrize("executor", ["device", "workers"])
def test_training_at_another_size_is_told_of(executor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready(executor=executor, transforms=[A.HorizontalFlip()]).train_dataloader()
    assert "pixels of images" not in capsys.readouterr().out
    ready(executor=executor, transforms=[A.RandomCrop(6, 4)]).train_dataloader()
    assert "The transforms make 6×4 pixels of images of 8×8" in capsys.readouterr().out


class OtherTests(TinyDataModule):
    """Its test images are as many, and as large, as it is told."""

    def __init__(self, count: int, side: int) -> None:
        super().__init__()
        self.count, self.side = count, side

    def load(self, split: Literal["train", "test"]) -> Images:
        shape = (self.count, self.side, self.side, 3)
        tests = Images(np.zeros(shape, np.uint8), np.zeros(self.count, np.int64))
        return super().load("train") if split == "train" else tests


def test_test_images_of_another_size_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    data = OtherTests(20, 16)
    data.setup()
    data.train_dataloader()
    assert "Training images are of 8×8 pixels, and test images of 16×16: if that is" in capsys.readouterr().out


def test_a_split_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"OtherTests\.load\('test'\) gives no images: give at least one"):
        OtherTests(0, 8).setup()


class Divides(A.ImageOnlyTransform):
    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.float32]:
        return np.divide(img, 255, dtype=np.float32)


def test_an_own_transform_that_scales_is_refused() -> None:
    data = ready(transforms=[Divides(p=1.0)])
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(UserError, match="make floats, and evaluation would not"):
        data.on_after_batch_transfer(list(batch), 0)


class Sorted(TinyDataModule):
    """Class after class, as folders of images are."""

    def load(self, split: Literal["train", "test"]) -> Images:
        images = super().load(split)
        return images.take(np.argsort(images.labels, kind="stable"))


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("limit", [1, 0.5, 1.0])
def test_a_limit_takes_images_of_all_classes(split: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_lit.data.datamodule.evaluation_batch", lambda *size: 10)
    data = Sorted(val_size=20)
    limits: dict[str, Any] = {f"limit_{split}_batches": limit}
    data.trainer = Trainer(accelerator="cpu", logger=False, **limits)
    data.setup("validate")
    labels = [batch[1].tolist() for batch in getattr(data, f"{split}_dataloader")()]
    assert len({*labels[0]}) == (3 if limit != 1.0 or isinstance(limit, int) else 1)
    images = data.val_images if split == "val" else data.test_images
    assert images is not None
    assert sorted(label for batch in labels for label in batch) == images.labels.tolist()


def test_a_fit_behind_an_evaluation_begins_at_the_beginning() -> None:
    data = ready(batch_size=10)
    data.load_state_dict({**data.state_dict(), "train_loader": {"epoch": 0, "position": 3, "of": 6}})
    data.setup("fit")
    assert len(labels_over(data.train_dataloader())) == 54
