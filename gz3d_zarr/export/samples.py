"""What a sample for training holds, chosen before anything is decoded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.masks import whole_threshold
from gz3d_zarr.backends.chunk_reader import ChunkReader, Fetched
from gz3d_zarr.backends.pixel_part import PixelPart
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.datamodel.variables import VARIABLES
from gz3d_zarr.errors import UsageError, plural, quote
from gz3d_zarr.export.subset import Selection

Target = Literal["counts", "fraction", "mask"]
TARGETS = ("counts", "fraction", "mask")
OBJECT_ID, ASKED = "object_id", "asked"
SMALL = tuple(name for name in VARIABLES if name not in BIG_ARRAYS)
NAMES = (*BIG_ARRAYS, OBJECT_ID, ASKED, *SMALL)
"""Every variable that a sample may have."""
DEFAULT_VARIABLES = (
    "image",
    "segmentation",
    "vote_fraction",
    "object_id",
    "ra",
    "dec",
    "scale",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "zooniverse_subject_id",
)


@dataclass(frozen=True)
class SampleOptions:
    """Choices of a loader, as `GZ3DDataset` documents them, checked.

    Raises
    ------
    UsageError
        Names what cannot be.
    """

    variables: Sequence[str] | str | None = None
    classes: Sequence[str] | str | None = None
    crop: Any = None
    size: int | None = None
    target: Target = "counts"
    threshold: float = 3
    names: tuple[str, ...] = field(init=False)
    positions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = DEFAULT_VARIABLES if self.variables is None else self.variables
        names = _check_names("variable", given, NAMES)
        if "segmentation" in names and ASKED not in names:
            names = (*names, ASKED)  # whether an empty mask says anything
        if self.target not in TARGETS:
            raise UsageError(f"target is {self.target!r}, expected one of {', '.join(TARGETS)}")
        if self.target != "counts" and "segmentation" not in names:
            raise UsageError(
                f"target is {self.target!r}, but segmentation is not among the variables"
            )
        whole_threshold(self.threshold)
        if self.size is not None and not _is_positive(self.size):
            raise UsageError(f"size is {self.size!r}, expected a whole number of pixels above 0")
        classes = _check_names("class", CLASSES if self.classes is None else self.classes, CLASSES)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "positions", tuple(CLASSES.index(name) for name in classes))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order wanted."""
        return tuple(CLASSES[i] for i in self.positions)

    def find_sides(self, selection: Selection) -> NDArray[np.int64]:
        """Pixels along each side of every subject's crop.

        Raises
        ------
        UsageError
            It is not within the image, or `size` is missing or too large.
        """
        sides = _crop_pixels(self.crop, selection.table["scale"])
        least, most = int(sides.min()), int(sides.max())
        if most > SIDE:
            raise UsageError(
                f"crop is {quote_crop(self.crop)}, up to {most} pixels, expected at most {SIDE}"
            )
        if self.size is None and least != most:
            raise UsageError(
                f"crop is {quote_crop(self.crop)}, {least} to {most} pixels: set size too, "
                "so that all samples have the same shape"
            )
        if self.size is not None and self.size > least:
            raise UsageError(f"size is {self.size}, expected at most the crop of {least} pixels")
        return sides


class SampleReader:
    """Reads what `options` choose of the selected subjects; small to pickle.

    Attributes
    ----------
    selection : Selection
    options : SampleOptions
    pixels : mapping of str to (shape, dtype)
        Of image and segmentation in a sample, as far as they are chosen.
    """

    def __init__(
        self, selection: Selection, options: SampleOptions, *, channels_first: bool
    ) -> None:
        self.selection, self.options = selection, options
        self._channels_first = channels_first
        self._sides = options.find_sides(selection)
        side = int(self._sides.max())
        self._part = PixelPart(options.positions, side)
        self._reader = ChunkReader(selection.generation, self._part)
        classes = list(options.positions)
        table, self._table = selection.table, dict[str, NDArray[Any]]()
        for name in options.names:
            if name == OBJECT_ID:
                self._table[name] = table["subject"]
            elif name == ASKED:
                self._table[name] = (table["classifications"] > 0)[:, classes]
            elif name not in BIG_ARRAYS:
                values = table[name]
                self._table[name] = values[:, classes] if values.ndim > 1 else values
        self._asked = table["classifications"][:, classes].astype(np.float32)
        self._asked[self._asked <= 0] = np.inf  # so that the fraction is 0, as `asked` explains
        pixels = options.size or side
        image = (3, pixels, pixels) if channels_first else (pixels, pixels, 3)
        shapes = {"image": image, "segmentation": (len(classes), pixels, pixels)}
        types = {"image": np.dtype("uint8"), "segmentation": self._target_type()}
        self.pixels: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            name: (shapes[name], types[name]) for name in BIG_ARRAYS if name in options.names
        }

    def fetch(self, positions: NDArray[np.integer[Any]]) -> Fetched:
        """Fetch what is chosen of subjects of one shard, for `read_pixels`; see `ChunkReader`."""
        return self._reader.fetch(self.selection.rows[positions], self.pixels)

    def read_pixels(
        self,
        position: int,
        outputs: Mapping[str, NDArray[Any]],
        fetched: Fetched | None = None,
    ) -> None:
        """Decode one subject's chosen pixels into arrays of zeros with the shapes of `pixels`.

        Raises
        ------
        StoreError
            As for `ChunkReader.read`.
        """
        row, reader = int(self.selection.rows[position]), self._reader
        image, masks = outputs.get("image"), outputs.get("segmentation")
        with reader.reading(outputs, row, fetched):
            if image is not None:
                pixels = reader.decode("image", row, fetched)
                self._write_image(self._trim(position, pixels, 0), image)
            size = self.options.size
            if masks is not None and size is None:  # all crops are as large as the reader's
                marked = reader.decode_marked(row, fetched)
                into = masks[:, marked.rows, marked.columns]
                self._write_masks(position, marked.values, into)
            elif masks is not None and size is not None:
                counts = self._trim(position, reader.decode("segmentation", row, fetched), 1)
                self._write_masks(position, area_mean(counts, size), masks)

    def small(self, position: int) -> dict[str, Any]:
        """The other chosen variables of one subject: numbers, text, or arrays by class."""
        return {name: values[position] for name, values in self._table.items()}

    def small_batch(self, positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The other chosen variables of some subjects."""
        return {name: values[positions] for name, values in self._table.items()}

    def describe(self) -> str:
        """What samples hold, in words."""
        of, options = self.selection, self.options
        parts = [f"{name} {dtype} {shape}" for name, (shape, dtype) in self.pixels.items()]
        parts += [name for name in options.names if name not in BIG_ARRAYS]
        text = f"{plural(len(of), 'subject')} of {of.store.url}: {', '.join(parts)}"
        if "segmentation" in self.pixels:
            text += f"; {options.target} of {', '.join(options.class_names)}"
        if options.crop is not None:
            text += f"; crop {quote_crop(options.crop)}"
        return f"{text}; {of.left_out} left out" if of.left_out else text

    def _target_type(self) -> np.dtype[Any]:
        if self.options.target == "mask":
            return np.dtype(bool)
        is_whole = self.options.target == "counts" and self.options.size is None
        return np.dtype("uint8" if is_whole else "float32")

    def _trim(self, position: int, pixels: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
        """Cut the crop of one subject out of the largest crop."""
        side = int(self._sides[position])
        start = (SIDE - side) // 2 - self._part.start
        cut = (slice(None),) * axis + (slice(start, start + side),) * 2
        return pixels[cut]

    def _write_image(self, image: NDArray[np.uint8], output: NDArray[Any]) -> None:
        planes = image.transpose(2, 0, 1)
        if self.options.size is not None:
            # 0.5 and above are rounded up, as in thumbnails.
            planes = np.floor(area_mean(planes, self.options.size) + 0.5).astype(np.uint8)
        output[...] = planes if self._channels_first else planes.transpose(1, 2, 0)

    def _write_masks(self, position: int, counts: NDArray[Any], output: NDArray[Any]) -> None:
        options = self.options
        if options.target == "mask":
            np.greater(counts, np.asarray(options.threshold, np.float32), out=output)
        elif options.target == "fraction":
            np.divide(counts, self._asked[position][:, None, None], out=output, dtype=np.float32)
        else:
            output[...] = counts


def area_mean(planes: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Means over size x size equal areas of each plane, shape (n, y, x); pixels are divided."""
    side = planes.shape[-1]
    # Without matrix products, whose threads would compete with other workers.
    rows = _area_sums(planes, size, np.int32)
    sums = _area_sums(rows.swapaxes(-1, -2), size, np.int64).swapaxes(-1, -2)
    means: NDArray[np.float32] = (sums / side**2).astype(np.float32)
    return means


def _area_sums(values: NDArray[Any], size: int, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """Sums over `size` equal parts of the second last axis, in units of 1 / size pixel."""
    side = values.shape[-2]
    if not side % size:  # whole pixels: several times faster
        every = side // size
        sums: NDArray[Any] = values[..., ::every, :].astype(dtype)
        for i in range(1, every):
            sums += values[..., i::every, :]
        sums *= dtype(size)
        return sums
    whole, rest = np.divmod(np.arange(size + 1, dtype=dtype) * side, size)
    before = np.zeros((*values.shape[:-2], side + 1, values.shape[-1]), dtype)
    np.cumsum(values, axis=-2, out=before[..., 1:, :])
    ends = before[..., whole, :] * dtype(size)
    # The last end is that of the last pixel, of which there is no rest.
    ends[..., :-1, :] += values[..., whole[:-1], :] * rest[:-1, None].astype(dtype)
    return np.diff(ends, axis=-2)


def quote_crop(crop: Any) -> str:
    """The crop as it was given."""
    return repr(crop) if isinstance(crop, str) else str(crop)


def _crop_pixels(crop: Any, scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixels of each subject's crop; UsageError if it is neither pixels nor an angle."""
    if crop is None:
        return np.full(len(scale), SIDE)
    if _is_positive(crop):
        return np.full(len(scale), int(crop))
    expected = "expected pixels above 0 (a whole number) or an angle such as '20 arcsec'"
    if isinstance(crop, int | float | np.number):
        raise UsageError(f"crop is {crop!r}, {expected}")
    from astropy import units

    try:
        degrees = float(units.Quantity(crop).to_value("deg"))
    except (TypeError, ValueError, units.UnitsError):
        raise UsageError(f"crop is {quote(crop)}, {expected}") from None
    pixels = degrees / scale
    if not (np.isfinite(pixels) & (pixels >= 0.5)).all():
        raise UsageError(f"crop is {quote_crop(crop)}, less than a pixel of some subjects")
    return np.rint(pixels).astype(np.int64)


def _check_names(kind: str, given: Iterable[str] | str, known: Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple; UsageError if there are none, or one is unknown or repeated."""
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names:
        raise UsageError(f"no {kind} is chosen, expected some of {', '.join(known)}")
    for i, name in enumerate(names):
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"there is no {kind} {quote(name)}, expected some of {', '.join(known)}{hint}"
            )
        if name in names[:i]:
            raise UsageError(f"{kind} {name} is chosen twice")
    return names


def _is_positive(number: object) -> bool:
    is_whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    return is_whole and number > 0  # type: ignore[operator]
