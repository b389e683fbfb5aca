"""What loaders choose before they decode, against plain NumPy; batches, lengths and epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gz3d_zarr
from gz3d_zarr import UsageError
from gz3d_zarr.datamodel.subject import CLASSES

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from gz3d_zarr.export.torch import (  # noqa: E402
    GZ3DDataset,
    GZ3DIterableDataset,
    sample_weights,
    split,
)


@pytest.fixture(scope="module")
def loaded(store: Path) -> Any:
    return gz3d_zarr.open_store(store, chunks=None).load()


def mean_of_areas(pixels: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Means over size x size areas of (y, x): every pixel is first repeated `size` times."""
    side = len(pixels)
    fine = pixels.repeat(size, 0).repeat(size, 1).astype(np.float64)
    return fine.reshape(size, side, size, side).mean((1, 3))


@pytest.mark.parametrize("crop", [None, 256, 255, 1])
def test_crop_and_classes(store: Path, loaded: Any, crop: int | None) -> None:
    dataset = GZ3DDataset(store, classes=["bar", "center"], crop=crop)
    side = crop or 525
    inside = slice((525 - side) // 2, (525 - side) // 2 + side)
    for i in (0, 5, 17, 5):
        sample, of = dataset[i], loaded.isel(subject=i)
        np.testing.assert_array_equal(
            sample["image"].permute(1, 2, 0), of["image"][inside, inside], strict=True
        )
        masks = of["segmentation"].values[[3, 0], inside, inside]
        np.testing.assert_array_equal(sample["segmentation"], masks, strict=True)
        np.testing.assert_array_equal(sample["vote_fraction"], of["vote_fraction"][[3, 0]])
        np.testing.assert_array_equal(sample["asked"], of["classifications"][[3, 0]] > 0)


@pytest.mark.parametrize(("crop", "size"), [(12, 4), (25, 8), (525, 3), (10, 10)])
@pytest.mark.parametrize("channels_first", [True, False])
def test_size_is_a_mean_over_areas(
    store: Path, loaded: Any, crop: int, size: int, channels_first: bool
) -> None:
    dataset = GZ3DDataset(store, crop=crop, size=size, channels_first=channels_first)
    sample, of, start = dataset[1], loaded.isel(subject=1), (525 - crop) // 2
    inside = slice(start, start + crop)
    image = sample["image"].permute(1, 2, 0) if channels_first else sample["image"]
    assert image.dtype == torch.uint8
    for channel in range(3):
        mean = mean_of_areas(of["image"].values[inside, inside, channel], size)
        expected = np.floor(mean + 0.5 + 1e-9)
        np.testing.assert_array_equal(image[..., channel], expected)
    assert sample["segmentation"].dtype == torch.float32
    for cls in range(4):
        mean = mean_of_areas(of["segmentation"].values[cls, inside, inside], size)
        np.testing.assert_allclose(sample["segmentation"][cls], mean, rtol=1e-6)


def test_targets(store: Path, loaded: Any) -> None:
    fraction = GZ3DDataset(store, target="fraction")
    mask = GZ3DDataset(store, target="mask", threshold=1.5, classes="spiral", as_tuple=True)
    small = GZ3DDataset(store, target="mask", threshold=0.4, crop=30, size=10)
    expected = loaded.gz3d.fraction().values
    assert np.isnan(expected).any()
    seen = 0
    for i in range(18):
        sample = fraction[i]
        assert sample["segmentation"].dtype == torch.float32
        np.testing.assert_array_equal(sample["segmentation"], np.nan_to_num(expected[i]))
        np.testing.assert_array_equal(~sample["asked"], np.isnan(expected[i]).all((1, 2)))
        image, masks = mask[i]
        counts = loaded["segmentation"].values[i]
        assert (image.dtype, masks.dtype) == (torch.uint8, torch.bool)
        np.testing.assert_array_equal(masks, counts[2:3] > 1.5)
        seen += int(masks.sum())
    assert seen
    center = loaded["segmentation"].values[1, 0, 247:277, 247:277]
    np.testing.assert_array_equal(small[1]["segmentation"][0], mean_of_areas(center, 10) > 0.4)


def test_crop_in_arcsec(store: Path, loaded: Any) -> None:
    from astropy import units

    scale = loaded["scale"].values * 3600
    side = round(20 / scale[3])
    for crop in ("20 arcsec", 20 * units.arcsec, "0.33333333 arcmin"):
        rows = np.flatnonzero(np.rint(20 / scale) == side)
        image = GZ3DDataset(store, rows=rows, crop=crop)[0]["image"]
        start = (525 - side) // 2
        of = loaded["image"].values[rows[0], start : start + side, start : start + side]
        np.testing.assert_array_equal(image.permute(1, 2, 0), of, strict=True)


def test_crops_of_several_sizes(store: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gz3d_zarr.export import samples

    sides = np.arange(18) + 20
    monkeypatch.setattr(samples, "_crop_pixels", lambda crop, scale: sides)
    with pytest.raises(UsageError, match=r"crop is '9 arcsec', 20 to 37 pixels: set size too"):
        GZ3DDataset(store, crop="9 arcsec")
    dataset = GZ3DDataset(store, crop="9 arcsec", size=5)
    for i in (0, 7, 17):
        start = (525 - sides[i]) // 2
        inside = slice(start, start + sides[i])
        mean = mean_of_areas(loaded["segmentation"].values[i, 0, inside, inside], 5)
        np.testing.assert_allclose(dataset[i]["segmentation"][0], mean, rtol=1e-6)


def test_variables(store: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gz3d_zarr.backends.chunk_reader import ChunkReader

    names = ["nsa_id", "object_id", "classifications", "image"]
    sample = GZ3DDataset(store, variables=names, classes=["spiral"])[4]
    assert list(sample) == names
    assert sample["nsa_id"] == loaded["nsa_id"].values[4]
    assert sample["object_id"] == str(loaded["subject"].values[4])
    assert sample["classifications"].tolist() == loaded["classifications"].values[4, 2:3].tolist()
    assert list(GZ3DDataset(store, variables="segmentation")[0]) == ["segmentation", "asked"]
    read: list[str] = []
    decode = ChunkReader.decode

    def counting_decode(self: Any, name: str, *rest: Any) -> Any:
        read.append(name)
        return decode(self, name, *rest)

    monkeypatch.setattr(ChunkReader, "decode", counting_decode)
    list(GZ3DIterableDataset(store, variables=["image", "ra"]))
    assert read == ["image"] * 18
    list(GZ3DIterableDataset(store, variables=["ra"]))
    assert len(read) == 18


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"variables": ["imag"]}, r"there is no variable 'imag', .*; did you mean image\?$"),
        ({"variables": []}, "no variable is chosen"),
        ({"clases": ["spiral"]}, r"unknown option clases for GZ3DDataset; .*variables, classes, "),
        ({"variables": ["ra", "ra"]}, "variable ra is chosen twice"),
        ({"classes": ["spirals"]}, r"there is no class 'spirals', .*; did you mean spiral\?$"),
        ({"crop": 526}, "crop is 526, up to 526 pixels, expected at most 525"),
        ({"crop": "2 arcmin"}, "crop is '2 arcmin', up to .* pixels, expected at most 525"),
        ({"crop": 0}, "crop is 0, expected pixels above 0"),
        ({"crop": 20.5}, "crop is 20.5, expected pixels above 0"),
        ({"crop": "20 kg"}, "crop is '20 kg', expected pixels"),
        ({"crop": "wide"}, "crop is 'wide', expected pixels"),
        ({"crop": "0.01 arcsec"}, "crop is '0.01 arcsec', less than a pixel"),
        ({"crop": 64, "size": 65}, "size is 65, expected at most the crop of 64 pixels"),
        ({"size": 1.5}, "size is 1.5, expected a whole number"),
        ({"target": "masks"}, "target is 'masks', expected one of counts, fraction, mask"),
        ({"target": "mask", "variables": ["image"]}, "segmentation is not among the variables"),
        ({"target": "mask", "threshold": 255}, "threshold is 255, expected a number from 0 to 254"),
        ({"as_tuple": True, "variables": ["image"]}, "as_tuple needs image and segmentation"),
        ({"rows": [True, False]}, "rows has 2 bools, expected one for each of the 18 subjects"),
        ({"rows": slice(0, 0)}, "no subject is selected"),
    ],
)
def test_choices_that_cannot_be(store: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GZ3DDataset(store, **choice)


def test_bools_and_slices_as_rows(store: Path, loaded: Any) -> None:
    ids = loaded["zooniverse_subject_id"].values
    wanted = ids % 3 == 1
    for rows, expected in ((wanted, ids[wanted]), (wanted.tolist(), ids[wanted]),
                           (slice(2, -3, 2), ids[2:-3:2])):  # fmt: skip
        dataset = GZ3DDataset(store, rows=rows, variables=["zooniverse_subject_id"])
        assert [sample["zooniverse_subject_id"] for sample in dataset] == expected.tolist()


def test_a_slice_of_a_dataset_is_a_dataset(store: Path, loaded: Any) -> None:
    ids = loaded["zooniverse_subject_id"].values
    dataset = GZ3DDataset(store, rows=slice(2, 14), classes=["bar"], crop=8)
    for part, rows in ((dataset[3:8], slice(5, 10)), (dataset[::-2], slice(13, 1, -2)),
                       (dataset[1:][:2], slice(3, 5))):  # fmt: skip
        assert [sample["zooniverse_subject_id"] for sample in part] == ids[rows].tolist()
        assert repr(part).startswith(f"<GZ3DDataset: {len(ids[rows])} subjects of /")
        masks = loaded["segmentation"].values[rows, 3:, 258:266, 258:266]
        np.testing.assert_array_equal([sample["segmentation"] for sample in part], masks)
    assert len(dataset) == 12
    assert dataset[torch.tensor(2)]["zooniverse_subject_id"] == ids[4]
    with pytest.raises(UsageError, match="the slice has none of the 12 subjects"):
        dataset[5:5]
    with pytest.raises(UsageError, match="index is 1.0, expected a position or a slice"):
        dataset[1.0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number"),
        ({"window": 1.5}, "window is 1.5, expected a whole number"),
        ({"seed": None}, "seed is None, expected a whole number"),
    ],
)
def test_numbers_that_are_not_whole(store: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GZ3DIterableDataset(store, **option)


def test_repr_says_what_samples_hold(store: Path) -> None:
    options = {"classes": ["spiral"], "crop": 64, "target": "mask", "as_tuple": True}
    text = repr(GZ3DDataset(store, **options))
    assert text.startswith("<GZ3DDataset: 18 subjects of /")
    assert "image uint8 (3, 64, 64), segmentation bool (1, 64, 64)" in text
    assert "mask of spiral; crop 64; as (image, segmentation)>" in text
    assert "; in batches of 5>" in repr(GZ3DIterableDataset(store, batch_size=5))


def test_batches_equal_collated_samples(store: Path) -> None:
    variables = ["image", "segmentation", "object_id", "ra", "saturated", "nsa_id", "vote_fraction"]
    options = {"variables": variables, "crop": 40, "classes": ["bar"], "seed": 4}
    batches = list(GZ3DIterableDataset(store, batch_size=5, **options))
    again = list(DataLoader(GZ3DIterableDataset(store, **options), batch_size=5))
    mapped = list(GZ3DIterableDataset(store, batch_size=5, transform=dict, **options))
    assert [len(batch["ra"]) for batch in batches] == [5, 5, 5, 3]
    for expected, *others in zip(again, batches, mapped, strict=True):
        for batch in others:
            assert list(batch) == list(expected)
            for name, values in expected.items():
                if name == "object_id":
                    assert batch[name] == values
                else:
                    assert batch[name].dtype == values.dtype
                    assert torch.equal(batch[name], values)
    images, masks = next(iter(GZ3DIterableDataset(store, batch_size=7, as_tuple=True, seed=4)))
    assert (images.shape, masks.shape) == ((7, 3, 525, 525), (7, 4, 525, 525))


@pytest.mark.parametrize("workers", [0, 1, 3, 5])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("batch", "drop_last"), [(None, False), (4, False), (4, True), (20, True)])
def test_every_subject_once_in_batches(
    store: Path, loaded: Any, workers: int, ranks: int, batch: int | None, drop_last: bool
) -> None:
    from types import SimpleNamespace

    from gz3d_zarr.export import epoch_counter
    from gz3d_zarr.export import torch as loaders

    numbers, lengths = [], []
    for rank in range(ranks):
        dataset = GZ3DIterableDataset(
            store, variables=["zooniverse_subject_id"], batch_size=batch, drop_last=drop_last,
            rank=rank, world_size=ranks, window=2,
        )  # fmt: skip
        items: list[Any] = []
        for number in range(max(workers, 1)):
            info = SimpleNamespace(id=number, num_workers=workers, seed=9 + number)
            with pytest.MonkeyPatch.context() as patch:
                for module in (loaders, epoch_counter) if workers else ():
                    patch.setattr(module, "get_worker_info", lambda info=info: info)
                items += [item["zooniverse_subject_id"] for item in dataset]
        assert len(items) == len(dataset)
        lengths.append(len(items))
        for item in items:
            numbers += [item] if batch is None else item.tolist()
            assert batch is None or not drop_last or len(item) == batch
    assert len(set(numbers)) == len(numbers)
    if drop_last:
        assert len(set(lengths)) == 1
        assert len(numbers) == 18 // ranks // batch * batch * ranks
    else:
        assert sorted(numbers) == sorted(loaded["zooniverse_subject_id"].values.tolist())


def test_drop_last_does_not_always_drop_the_same(store: Path) -> None:
    dataset = GZ3DIterableDataset(
        store, variables=["zooniverse_subject_id"], batch_size=17, drop_last=True
    )
    passes = [set(next(iter(dataset))["zooniverse_subject_id"].tolist()) for _ in range(12)]
    assert len(set.union(*passes)) == 18
    assert len({frozenset(ids) for ids in passes}) > 3


def orders_of(loader: Any, count: int) -> list[list[int]]:
    return [
        [i for batch in loader for i in batch["zooniverse_subject_id"].tolist()]
        for _ in range(count)
    ]


@pytest.mark.parametrize("persistent", [False, True])
def test_epochs_differ_without_being_told(store: Path, persistent: bool) -> None:
    options = {"variables": ["zooniverse_subject_id"], "batch_size": 3, "window": 2}
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}
    dataset = GZ3DIterableDataset(store, **options)
    loader = DataLoader(dataset, batch_size=None, persistent_workers=persistent, **workers)
    assert len(loader) == len(dataset) == 6
    first, second, third = orders = orders_of(loader, 3)
    assert first != second != third != first
    for order in orders:
        assert len(order) == 18
        assert len(set(order)) == 18
    next(iter(loader))  # a pass that is not ended counts
    dataset.set_epoch(1)
    assert orders_of(loader, 2) == [second, third]
    # Other loaders of the same dataset go on; a new dataset begins anew.
    later = orders_of(DataLoader(dataset, batch_size=None, **workers), 1)
    assert later[0] not in orders
    anew = GZ3DIterableDataset(store, **options)
    assert orders_of(DataLoader(anew, batch_size=None, **workers), 2) == [first, second]
    del loader


def test_workers_that_are_late_use_the_same_epoch(store: Path) -> None:
    from types import SimpleNamespace

    from gz3d_zarr.export import epoch_counter

    counter = epoch_counter.EpochCounter()

    def start(worker: int, seed: int) -> int:
        info = SimpleNamespace(id=worker, num_workers=3, seed=seed + worker)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(epoch_counter, "get_worker_info", lambda: info)
            return counter.start_pass()

    assert [start(0, 70), start(0, 70), start(1, 70), start(0, 70), start(1, 70)] == [0, 1, 0, 2, 1]
    assert start(2, 70) == 0
    assert [start(1, 80), start(0, 80)] == [3, 3]
    counter.set(1)
    assert [start(0, 80), start(1, 80), start(0, 80), start(1, 80)] == [1, 1, 2, 2]
    assert counter.start_pass() == 3
    with pytest.raises(UsageError, match="epoch is 16777215, expected 0 or more, at most"):
        counter.set(2**24 - 1)


def test_split_keeps_neighbors_together(store: Path, loaded: Any) -> None:
    sets = split(store, fractions=(0.5, 0.3, 0.2), seed=3)
    assert sorted(np.concatenate(sets).tolist()) == list(range(18))
    pixels, names = loaded["healpix"].values, loaded["subject"].values.astype(object)
    for i, rows in enumerate(sets):
        others = np.concatenate([other for j, other in enumerate(sets) if j != i])
        assert not set(pixels[rows]) & set(pixels[others])
        assert not set(names[rows]) & set(names[others])
    again = split(store, fractions=(0.5, 0.3, 0.2), seed=3)
    assert all(map(np.array_equal, sets, again))
    other = split(store, fractions=(0.5, 0.3, 0.2), seed=4)
    assert not all(map(np.array_equal, sets, other))
    chosen = split(store, rows=slice(4, 12), fractions=(0.5, 0.5), by="manga_id")
    assert sorted(np.concatenate(chosen).tolist()) == list(range(4, 12))


def test_groups_are_linked_by_ids_and_pixels() -> None:
    from gz3d_zarr.export.split import _find_groups

    ids = np.array([0, 1, 0, 2, 3, 4, 5, 3])
    pixels = np.array([1, 1, 2, 2, 3, -1, -1, 9])
    assert _find_groups([ids, pixels]).tolist() == [0, 0, 0, 0, 1, 2, 3, 1]
    assert _find_groups([ids]).tolist() == [0, 1, 0, 2, 3, 4, 5, 3]


def test_subjects_with_overlapping_images_share_a_cell() -> None:
    """Also across borders of pixels, at right ascension 0 and at a pole."""
    from gz3d_zarr.export.split import _sky_cells

    rng = np.random.default_rng(5)
    dec = np.r_[np.degrees(np.arcsin(rng.uniform(-1, 1, 500))), 90 - rng.uniform(0, 0.01, 50), 0]
    ra = np.r_[rng.uniform(0, 360, 550), 0]
    angle, distance = rng.uniform(0, 2 * np.pi, 551), np.radians(74 / 3600)
    a, b = np.radians(ra), np.radians(dec)
    east = np.stack([-np.sin(a), np.cos(a), 0 * a])
    north = np.stack([-np.sin(b) * np.cos(a), -np.sin(b) * np.sin(a), np.cos(b)])
    up = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)])
    near = up * np.cos(distance) + np.sin(distance) * (east * np.cos(angle) + north * np.sin(angle))
    both = (
        np.r_[ra, np.degrees(np.arctan2(near[1], near[0]))],
        np.r_[dec, np.degrees(np.arcsin(near[2]))],
    )
    cells = np.array(_sky_cells(*both))
    assert (cells[:, :551] == cells[:, 551:]).any(0).all()
    assert (cells[:, :500] == cells[:, 1:501]).any(0).mean() < 0.01
    unknown = np.array(_sky_cells(np.array([np.nan, 1.0]), np.array([0.0, 1.0])))
    assert (unknown[:, 0] == -1).all()
    assert (unknown[:, 1] >= 0).all()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"fractions": (0.5, 0.4)}, "expected numbers above 0 with the sum 1"),
        ({"fractions": (1.0, 0.0)}, "expected numbers above 0 with the sum 1"),
        ({"by": "name"}, "by is 'name', expected healpix or manga_id"),
        ({"fractions": {"train": 1.0}}, "expected numbers above 0 with the sum 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5, expected a whole number"),
        (
            {"rows": [1], "fractions": (0.5, 0.5)},
            "1 subject in 1 group by healpix: too few for 2 sets",
        ),
    ],
)
def test_splits_that_cannot_be(store: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(store, **choice)


@pytest.mark.parametrize("cls", CLASSES)
def test_weights_balance_marked_and_unmarked(store: Path, loaded: Any, cls: str) -> None:
    weights = sample_weights(store, by=cls, threshold=2)
    counts = loaded["segmentation"].values[:, CLASSES.index(cls)]
    is_marked = (counts > 2).any((1, 2))
    assert weights.sum() == pytest.approx(18)
    if 0 < is_marked.sum() < 18:
        assert weights[is_marked].sum() == pytest.approx(weights[~is_marked].sum())
    with pytest.raises(UsageError, match="by is 'arms', expected one of center"):
        sample_weights(store, by="arms")


def test_hugging_face_has_the_same_choices(store: Path, loaded: Any) -> None:
    pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    options: dict[str, Any] = {"classes": ["bar", "spiral"], "crop": 60, "size": 20}
    names = ["object_id", "classifications", "image", "segmentation"]
    dataset = iterable_dataset(
        store, variables=names, target="fraction", rows=slice(1, 7), **options
    )
    assert set(dataset.features) == set(names)
    samples = GZ3DDataset(
        store, target="fraction", rows=slice(1, 7), channels_first=False, **options
    )
    examples = list(dataset.with_format("numpy"))
    assert len(examples) == 6
    for i, (example, sample) in enumerate(zip(examples, samples, strict=True), 1):
        np.testing.assert_array_equal(example["image"], sample["image"])
        marks = example["segmentation"]
        assert list(marks["class"]) == ["bar", "spiral"]
        np.testing.assert_array_equal(np.stack(list(marks["array"])), sample["segmentation"])
        np.testing.assert_array_equal(marks["asked"], sample["asked"])
        expected = loaded["classifications"].values[i, [3, 2]]
        np.testing.assert_array_equal(example["classifications"], expected)
    with pytest.raises(UsageError, match="crop is 526"):
        iterable_dataset(store, crop=526)
    with pytest.raises(UsageError, match="num_shards is 0"):
        iterable_dataset(store, num_shards=0)
    with pytest.raises(UsageError, match="num_shards is 2.5, expected a whole number"):
        iterable_dataset(store, num_shards=2.5)


def test_hugging_face_with_more_workers_than_shards(store: Path, loaded: Any) -> None:
    pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    dataset = iterable_dataset(store, variables=["ra"], num_shards=7)
    assert dataset.num_shards == 7
    assert iterable_dataset(store, variables=["ra"], num_shards=99).num_shards == 18
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}
    loader = DataLoader(
        iterable_dataset(store, rows=[0, 2, 3], variables=["ra"]), batch_size=None, **workers
    )
    expected = loaded["ra"].values
    assert sorted(example["ra"] for example in loader) == sorted(expected[[0, 2, 3]].tolist())
    assert sorted(example["ra"] for example in dataset) == sorted(expected.tolist())
