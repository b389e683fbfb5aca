"""A store as a streaming dataset of the library ``datasets``, with the published features.

Names and types are those of the Multimodal Universe's data model and loader for GZ3D
(https://github.com/MultimodalUniverse/MultimodalUniverse, ``scripts/gz3d``), except that `image`
has three channels: the loader declares it without channels, which does not match the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import Fetched
from gz3d_zarr.datamodel.option_fields import check_options, check_type
from gz3d_zarr.errors import UsageError, missing_extra_error
from gz3d_zarr.export.partition import check_partition, partition
from gz3d_zarr.export.samples import ASKED, OBJECT_ID, SampleOptions, SampleReader
from gz3d_zarr.export.subset import Selection, select_rows

if TYPE_CHECKING:
    from datasets import Features, IterableDataset

    from gz3d_zarr.export.subset import Rows

DEFAULT_VARIABLES = (
    "object_id",
    "zooniverse_subject_id",
    "ra",
    "dec",
    "healpix",
    "scale",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "image",
    "segmentation",
)


def iterable_dataset(
    store: str | Path,
    *,
    rows: Rows = None,
    num_shards: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **choices: Any,
) -> IterableDataset:
    """Stream a store's subjects, shard by shard.

    Shuffle with ``.shuffle(seed=, buffer_size=)``. The workers of a DataLoader divide the shards
    among them.

    If several nodes or ranks train, give each its `rank` and `world_size`: together they decode
    each subject once, and the sizes of their parts differ by at most one subject. The alternative
    is ``split_dataset_by_node`` of ``datasets.distributed``; do not use both. It distributes whole
    shards, which ``.shuffle`` mixes over all nodes; but if the number of shards is not a multiple
    of the number of nodes, every node decodes all subjects and keeps its part.

    Parameters
    ----------
    store : str or Path
        A complete store.
    rows : sequence of int or bool, slice, or Dataset, optional
        Positions along ``subject``, a bool for every subject of the store, a slice, or a Dataset
        that was selected from the store; by default all. Subjects whose status is not ok are left
        out; ``info.description`` counts them.
    num_shards : int, optional
        Number of parts that workers divide among them, by default one for each shard of the store;
        give at least the number of workers.
    rank, world_size : int, optional
        Number of this part, and of parts, of the subjects in the order of the store; by default one
        part. They are not read from ``torch.distributed``, as ``split_dataset_by_node`` would then
        divide the part again.
    storage_options : mapping, optional
        Options for fsspec.
    **choices
        `variables`, `classes`, `crop`, `size`, `target` and `threshold` as for `GZ3DDataset` of
        `gz3d_zarr.export.torch`; by default the variables below.

    Returns
    -------
    datasets.IterableDataset
        Yields dicts: ``object_id``, ``zooniverse_subject_id``, ``ra``, ``dec`` (degrees),
        ``healpix``, ``scale`` (degrees per pixel), ``total_classifications``, ``spiral_votes``,
        ``bar_votes``, ``image`` (uint8, (525, 525, 3)), and ``segmentation``, which has ``class``,
        ``vote_fraction``, ``asked`` and ``array`` (uint8, (525, 525)) for four classes.

    Raises
    ------
    UsageError
        ``datasets`` is not installed, no selected subject has the status ok, the rank does not
        exist, or a choice is not possible.
    StoreError
        The store cannot be opened or, later, read.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok. They are left out.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra_error("gz3d_zarr.export.huggingface", error, "huggingface") from error
    part, parts = check_partition(rank, world_size) or (0, 1)
    check_type("num_shards", num_shards, int)
    if num_shards is not None and num_shards < 1:
        raise UsageError(f"num_shards is {num_shards}, expected at least 1")
    check_options(iterable_dataset, choices, SampleOptions)
    options = SampleOptions(**choices)
    if options.variables is None:
        options = replace(options, variables=DEFAULT_VARIABLES)
    selection = select_rows(store, rows, storage_options=storage_options)
    selection.warn(stacklevel=3)  # at the caller
    features = make_features(SampleReader(selection, options, channels_first=False))
    # datasets divides a list among workers, here of one selection per shard; it must not be empty.
    positions = partition(selection.shards(), part, parts) or [np.zeros(0, np.int64)]
    if num_shards is not None:
        pieces = [partition(positions, i, num_shards) for i in range(num_shards)]
        positions = [np.concatenate(piece) for piece in pieces if piece] or positions
    shards = [selection.take(of_shard) for of_shard in positions]
    dataset = datasets.IterableDataset.from_generator(
        _examples, features=features, gen_kwargs={"shards": shards, "options": options}
    )
    dataset.info.description = "Galaxy Zoo: 3D. " + selection.note
    return dataset


def make_features(reader: SampleReader) -> Features:
    """Names and types; those of the published dataset where it has the variable.

    ``total_classifications`` is uint8 there, and int32 here if a value is too large for uint8.
    """
    from datasets import Array2D, Array3D, Features, Sequence, Value

    features: dict[str, Any] = {}
    table = reader.selection.table
    for name in reader.options.names:
        if name == OBJECT_ID:
            features[name] = Value("string")
        elif name == "image":
            features[name] = Array3D(reader.pixels[name][0], "uint8")
        elif name == "segmentation":
            (_, *shape), dtype = reader.pixels[name]
            features[name] = Sequence(
                {
                    "class": Value("string"),
                    "vote_fraction": Value("float32"),
                    ASKED: Value("bool"),
                    "array": Array2D(tuple(shape), str(dtype)),
                }
            )
        elif name == "scale":
            features[name] = Value("float32")
        elif name == "total_classifications":
            fits = table[name].max() <= np.iinfo(np.uint8).max and table[name].min() >= 0
            features[name] = Value("uint8" if fits else "int32")
        elif name != ASKED or "segmentation" not in reader.pixels:
            value = Value("bool" if name == ASKED else str(table[name].dtype))
            is_by_class = name == ASKED or table[name].ndim > 1
            features[name] = Sequence(value) if is_by_class else value
    return Features(features)


def _examples(shards: Sequence[Selection], options: SampleOptions) -> Iterator[dict[str, Any]]:
    for selection in shards:
        if not len(selection):
            continue
        reader = SampleReader(selection, options, channels_first=False)
        for positions in selection.shards():
            fetched = reader.fetch(positions)
            for position in positions.tolist():
                yield _example(reader, position, fetched)


def _example(reader: SampleReader, position: int, fetched: Fetched) -> dict[str, Any]:
    example: dict[str, Any] = dict(reader.small(position))
    pixels: dict[str, NDArray[Any]] = {
        name: np.zeros(shape, dtype) for name, (shape, dtype) in reader.pixels.items()
    }
    reader.read_pixels(position, pixels, fetched)
    example.update(pixels)
    if "segmentation" in pixels:
        votes = reader.selection.table["vote_fraction"][position]
        example["segmentation"] = {
            "class": list(reader.options.class_names),
            "vote_fraction": votes[list(reader.options.positions)].tolist(),
            ASKED: example.pop(ASKED).tolist(),
            "array": list(pixels["segmentation"]),
        }
    return example
