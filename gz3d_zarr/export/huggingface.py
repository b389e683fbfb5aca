"""A store as a streaming dataset of the library ``datasets``, with the published features.

Names and types are those of the Multimodal Universe's data model and loader for GZ3D
(https://github.com/MultimodalUniverse/MultimodalUniverse, ``scripts/gz3d``), except that `image`
has three channels: the loader declares it without channels, which does not match the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.errors import missing_extra_error
from gz3d_zarr.export.partition import check_partition, partition
from gz3d_zarr.export.runner import read_subjects
from gz3d_zarr.export.subset import Selection, select_rows

if TYPE_CHECKING:
    import xarray as xr
    from datasets import Features, IterableDataset


def iterable_dataset(
    store: str | Path,
    *,
    rows: Sequence[int] | NDArray[np.integer[Any]] | xr.Dataset | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
    rows : sequence of int, or Dataset, optional
        Positions along ``subject``, or a Dataset that was selected from the store; by default
        all. Subjects whose status is not ok are left out; ``info.description`` counts them.
    rank, world_size : int, optional
        Number of this part, and of parts, of the subjects in the order of the store; by default one
        part. They are not read from ``torch.distributed``, as ``split_dataset_by_node`` would then
        divide the part again.
    storage_options : mapping, optional
        Options for fsspec.

    Returns
    -------
    datasets.IterableDataset
        Yields dicts: ``object_id``, ``ra``, ``dec`` (degrees), ``healpix``, ``scale`` (degrees per
        pixel), ``total_classifications``, ``image`` (uint8, (525, 525, 3)), and ``segmentation``,
        which has ``class``, ``vote_fraction`` and ``array`` (uint8, (525, 525)) for four classes.

    Raises
    ------
    UsageError
        ``datasets`` is not installed, no selected subject has the status ok, or the rank does not
        exist.
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
    selection = select_rows(store, rows, storage_options=storage_options)
    selection.warn(stacklevel=3)  # at the caller
    # datasets divides a list among workers, here of one selection per shard; it must not be empty.
    positions = partition(selection.shards(), part, parts) or [np.zeros(0, np.int64)]
    shards = [selection.take(of_shard) for of_shard in positions]
    dataset = datasets.IterableDataset.from_generator(
        _examples, features=make_features(selection), gen_kwargs={"shards": shards}
    )
    dataset.info.description = "Galaxy Zoo: 3D. " + selection.note
    return dataset


def make_features(selection: Selection) -> Features:
    """Names and types of the published dataset.

    ``total_classifications`` is uint8 there, and int32 here if a value is too large for uint8.
    """
    from datasets import Array2D, Array3D, Features, Sequence, Value

    fits = selection.table["total_classifications"].max() <= np.iinfo(np.uint8).max
    return Features(
        {
            "object_id": Value("string"),
            "ra": Value("float64"),
            "dec": Value("float64"),
            "healpix": Value("int64"),
            "scale": Value("float32"),
            "total_classifications": Value("uint8" if fits else "int32"),
            "image": Array3D((SIDE, SIDE, 3), "uint8"),
            "segmentation": Sequence(
                {
                    "class": Value("string"),
                    "vote_fraction": Value("float32"),
                    "array": Array2D((SIDE, SIDE), "uint8"),
                }
            ),
        }
    )


def _examples(shards: Sequence[Selection]) -> Iterator[dict[str, Any]]:
    for selection in shards:
        table = selection.table
        reader = ChunkReader(selection.generation)
        for i, image, segmentation in read_subjects(reader, selection):
            yield {
                "object_id": table["subject"][i],
                "ra": float(table["ra"][i]),
                "dec": float(table["dec"][i]),
                "healpix": int(table["healpix"][i]),
                "scale": float(table["scale"][i]),
                "total_classifications": int(table["total_classifications"][i]),
                "image": image,
                "segmentation": {
                    "class": list(CLASSES),
                    "vote_fraction": table["vote_fraction"][i].tolist(),
                    "array": list(segmentation),
                },
            }
