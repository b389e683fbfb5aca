"""A store as a streaming dataset of the library ``datasets``, with the published features.

Names and types are those of the Multimodal Universe's data model and loader for GZ3D
(https://github.com/MultimodalUniverse/MultimodalUniverse, ``scripts/gz3d``), except that `image`
has its three channels: the loader declares it without them, which no picture fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.export.partition import check_partition, share
from gz3d_zarr.export.runner import missing_extra_error, read_subjects
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

    Shuffle with ``.shuffle(seed=, buffer_size=)``; a DataLoader's workers share out the shards.

    Where several nodes or ranks train, give each its `rank` and `world_size`: together they decode
    each subject once, and their parts are equal but for one subject. ``split_dataset_by_node`` of
    ``datasets.distributed`` is the other way, never both: it shares out whole shards, mixed over
    all nodes by ``.shuffle``, but where their number is no multiple of the nodes', every node
    decodes all subjects and keeps its part.

    Parameters
    ----------
    store : str or Path
        A complete store.
    rows : sequence of int, or Dataset, optional
        Positions along ``subject``, or a Dataset that was selected from the store; by default
        all. Subjects whose status is not ok are left out; ``info.description`` counts them.
    rank, world_size : int, optional
        Which part, of how many, of the subjects in the order of the store; by default all of them.
        Not taken from ``torch.distributed``: ``split_dataset_by_node`` would share them out again.
    storage_options : mapping, optional
        For fsspec.

    Returns
    -------
    datasets.IterableDataset
        Of dicts: ``object_id``, ``ra``, ``dec`` (degrees), ``healpix``, ``scale`` (degrees a
        pixel), ``total_classifications``, ``image`` (uint8, (525, 525, 3)), and ``segmentation``:
        for the four classes ``class``, ``vote_fraction`` and ``array`` (uint8, (525, 525)).

    Raises
    ------
    UsageError
        ``datasets`` is not installed, nothing that is ok is selected, or there is no such rank.
    StoreError
        The store cannot be opened or, later, read.

    Warns
    -----
    LeftOutWarning
        Subjects whose status is not ok are left out; how many.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra_error("gz3d_zarr.export.huggingface", error, "huggingface") from error
    part, parts = check_partition(rank, world_size) or (0, 1)
    selection = select_rows(store, rows, storage_options=storage_options)
    selection.warn(stacklevel=3)  # whoever calls this
    # A list is what datasets shares out, never an empty one: here selections of single shards.
    mine = share(selection.shards(), part, parts) or [np.zeros(0, np.int64)]
    shards = [selection.take(positions) for positions in mine]
    made = datasets.IterableDataset.from_generator(
        _examples, features=make_features(selection), gen_kwargs={"shards": shards}
    )
    made.info.description = "Galaxy Zoo: 3D. " + selection.note
    return made


def make_features(selection: Selection) -> Features:
    """Names and types of the published dataset.

    ``total_classifications`` is uint8 there, and int32 here where a number does not fit that.
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
        reader = ChunkReader(selection.store)
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
