"""Pictures: what is drawn where, without a display; and the command that saves them."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from distributed import Client
from files import subject_files
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Ellipse, Polygon

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, UsageError
from gz3d_zarr.analysis.palette import CLASS_COLORS
from gz3d_zarr.analysis.plot_rings import make_ring
from gz3d_zarr.analysis.sky_grids import bundle_hexagon
from gz3d_zarr.backends import source as source_backend
from gz3d_zarr.cli import main
from gz3d_zarr.sources.download import read_file


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


@pytest.fixture(scope="module")
def flawed(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six subjects, of which two are not ok."""
    folder = tmp_path_factory.mktemp("flawed")
    for i, path in enumerate(subject_files(simulated)[:6]):
        (folder / path.name).write_bytes(b"<html>" if i in (1, 4) else path.read_bytes())
    gz3d_zarr.build(folder, folder / "g.zarr", client)
    return folder / "g.zarr"


def most_marked(ds: xr.Dataset) -> int:
    marks = (ds["segmentation"] > 3).any(("y", "x")).sum("class").values
    return int(marks.argmax())


def test_a_plot_has_picture_masks_bars_bundle_and_legend(ds: xr.Dataset) -> None:
    i = most_marked(ds)
    row = ds.isel(subject=i)
    figure = ds.gz3d.plot(int(row["zooniverse_subject_id"]))
    assert isinstance(figure, Figure)
    left, right, *bars = figure.axes
    assert [bar.get_title() for bar in bars] == list(CLASS_COLORS)
    np.testing.assert_array_equal(left.images[0].get_array(), row["image"].values)
    shown = [name for name in CLASS_COLORS if row["segmentation"].sel({"class": name}).any()]
    assert [image.get_cmap().name for image in right.images[1:]] == shown
    for name, image in zip(shown, right.images[1:], strict=True):
        counts = row["segmentation"].sel({"class": name}).values
        np.testing.assert_array_equal(image.get_array(), counts)
        assert to_hex(image.cmap(1.0)) == CLASS_COLORS[name]
        assert image.cmap(0.0)[3] == 0
        assert image.get_clim() == (0, max(15, counts.max()))
    for axes in (left, right):
        assert str(axes.wcs.wcs.ctype[0]) == "RA---TAN"
        assert axes.wcs.wcs.crval.tolist() == [row["ra"].item(), row["dec"].item()]
        assert axes.get_ylim() == (524.5, -0.5)  # row 0, the north, is at the top
        (bundle,) = (patch for patch in axes.patches if isinstance(patch, Polygon))
        np.testing.assert_allclose(bundle.get_xy()[:6], bundle_hexagon(row))
    texts = [text.get_text() for text in right.get_legend().get_texts()]
    asked = row["classifications"].values > 0
    assert asked.any()
    labels = [
        name if is_asked else f"{name} (not asked)"
        for name, is_asked in zip(CLASS_COLORS, asked, strict=True)
    ]
    assert texts == [*labels, "marked by more than 3", "cluster of marks", "MaNGA bundle"]
    assert str(row["subject"].item()) in left.get_title()
    FigureCanvasAgg(figure).draw()


def rings(axes: Axes) -> list[tuple[str, float, float]]:
    found = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    return [(to_hex(ring.get_edgecolor()), *ring.center) for ring in found]


def test_centers_and_stars_have_rings_from_their_clusters(ds: xr.Dataset, simulated: Path) -> None:
    i = int(ds["number_foreground_stars"].values.argmax())
    expected = [
        (CLASS_COLORS[name], cluster["x"].value, cluster["y"].value)
        for name in ("center", "star")
        for cluster in ds.isel(subject=i).gz3d.clusters(name)
    ]
    assert len(expected) > 1
    left, right, *_ = ds.isel(subject=i).gz3d.plot().axes
    assert rings(left) == []
    assert rings(right) == expected
    sheet = ds.isel(subject=[i, 0]).gz3d.contact_sheet(classes=["star"])
    assert rings(sheet.axes[0]) == [ring for ring in expected if ring[0] == CLASS_COLORS["star"]]
    number = int(ds["zooniverse_subject_id"][i])
    source = gz3d_zarr.open_source(simulated, ids=[number])
    assert rings(source.gz3d.plot().axes[1]) == expected
    bare = source.drop_encoding().gz3d.plot().axes[1]
    assert rings(bare) == []
    texts = [text.get_text() for text in bare.get_legend().get_texts()]
    assert "cluster of marks" not in texts


def test_rings_are_ellipses_that_can_be_seen() -> None:
    ring = make_ring("star", 10, 20, 100, 400, 0)
    assert sorted([ring.width, ring.height]) == [40, 80]
    upright = ring.height > ring.width
    assert ring.angle % 180 == (0 if upright else 90)
    assert make_ring("star", 10, 20, 0, 0, 0).width == 10
    assert make_ring("star", 10, 20, np.inf, np.nan, 0).width == 10
    tilted = make_ring("center", 0, 0, 100, 100, 99)
    assert min(tilted.width, tilted.height) == 10  # 2 sigma would be 4
    assert tilted.angle % 90 == pytest.approx(45)


def test_classes_that_nobody_was_asked_about_are_named(ds: xr.Dataset) -> None:
    volunteers = ds["classifications"].values
    i = int(np.flatnonzero((volunteers[:, 2] == 0) & (volunteers[:, 0] > 0))[0])
    row = ds.isel(subject=i)
    texts = [t.get_text() for t in row.gz3d.plot().axes[1].get_legend().get_texts()]
    assert "spiral (not asked)" in texts
    assert "center" in texts
    title = ds.isel(subject=[i]).gz3d.contact_sheet(classes=["center", "spiral"]).axes[0]
    assert title.get_title().endswith("\nnot asked: spiral")
    few = row.drop_vars("classifications").gz3d.plot().axes[1].get_legend().get_texts()
    assert "spiral" in [text.get_text() for text in few]


def test_notebooks_show_a_plot(ds: xr.Dataset) -> None:
    rows = ds.isel(subject=[0, 1])
    pickled = pickle.loads(pickle.dumps(rows.gz3d.contact_sheet()))
    for figure in (rows.isel(subject=0).gz3d.plot(), pickled):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_plot_shows_the_sky_as_it_is(ds: xr.Dataset) -> None:
    figure = ds.isel(subject=5).gz3d.plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left = figure.axes[0]
    wcs = ds.isel(subject=5).gz3d.wcs()
    ra, dec = wcs.wcs.crval
    north = left.transData.transform(wcs.wcs_world2pix([[ra, dec + 0.004]], 0)[0])
    east = left.transData.transform(
        wcs.wcs_world2pix([[ra + 0.004 / np.cos(np.radians(dec)), dec]], 0)[0]
    )
    middle = left.transData.transform((261.5, 261.5))
    assert north[1] > middle[1] + 50
    assert east[0] < middle[0] - 50
    x, y = np.rint(left.transData.transform((380, 90))).astype(int)
    pixels = np.asarray(canvas.buffer_rgba())
    seen = pixels[pixels.shape[0] - 1 - y, x, :3].astype(int)
    around = ds["image"][5].values[88:93, 378:383].reshape(-1, 3).astype(int)
    assert abs(around - seen).sum(axis=1).min() < 8


def test_plots_go_into_axes_that_are_given(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    figure = Figure()
    one = figure.subplots()
    assert row.gz3d.plot(ax=one, classes=["center"], threshold=5, hexagon=False) is figure
    assert [image.get_cmap().name for image in one.images[1:]] == ["center"]
    assert not [patch for patch in one.patches if isinstance(patch, Polygon)]
    assert len(figure.axes) == 2
    figure = row.sel({"class": "center"}).gz3d.plot()
    assert [image.get_cmap().name for image in figure.axes[1].images[1:]] == ["center"]
    figure = Figure()
    two = figure.subplots(1, 2)
    assert row.gz3d.plot(ax=two) is figure
    assert len(two[0].images) == 1
    sheet = Figure()
    panels = sheet.subplots(1, 3)
    assert ds.gz3d.contact_sheet(ds["zooniverse_subject_id"][:3], panels) is sheet
    assert all(len(panel.images) >= 2 for panel in panels)
    with pytest.raises(UsageError, match="takes one or two axes, not 3"):
        row.gz3d.plot(ax=panels)
    with pytest.raises(UsageError, match="4 subjects need as many axes, not 3"):
        ds.isel(subject=slice(4)).gz3d.contact_sheet(ax=panels)


def test_axes_may_come_in_an_array_of_two_dimensions(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    figure = Figure()
    axes = figure.subplots(2, 1, squeeze=False)
    assert row.gz3d.plot(ax=axes) is figure
    assert len(axes[0, 0].images) == 1
    assert len(axes[1, 0].images) >= 2
    one = Figure().subplots(1, 1, squeeze=False)
    assert len(row.gz3d.plot(ax=one).axes[0].images) >= 2


def test_one_class_may_be_named_alone(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    *_, bar = row.gz3d.plot(classes="spiral").axes
    assert bar.get_title() == "spiral"
    sheet = ds.isel(subject=slice(2)).gz3d.contact_sheet(classes="bar")
    assert sheet.legends[0].get_texts()[0].get_text() == "bar"
    with pytest.raises(UsageError, match="no class 'spirals', expected .* did you mean spiral"):
        row.gz3d.plot(classes="spirals")


def test_a_contact_sheet_has_all_subjects_asked_for(ds: xr.Dataset) -> None:
    sheet = ds.isel(subject=slice(5)).gz3d.contact_sheet(columns=2, title="five")
    assert len(sheet.axes) == 6
    assert sheet.get_suptitle() == "five"
    labels = ds["subject"].values.tolist()
    repeated = next(label for label in labels if labels.count(label) == 2)
    sheet = ds.gz3d.contact_sheet([repeated, 14000007])
    titles = [axes.get_title() for axes in sheet.axes if axes.images]
    assert len(titles) == 3
    assert [repeated in title for title in titles] == [True, True, False]
    assert "14000007" in titles[2]
    FigureCanvasAgg(sheet).draw()


def test_a_file_is_read_for_the_rings_and_for_all_variables_together(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counting(path: str, *args: object) -> object:
        reads.append(path)
        return read_file(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(source_backend, "read_file", counting)
    source = gz3d_zarr.open_source(simulated)
    source.isel(subject=7).gz3d.plot()
    assert len(reads) == 2
    reads.clear()
    source.isel(subject=slice(2)).gz3d.contact_sheet()
    assert len(reads) == 6  # first the status of all, then the rings, then each picture


def test_rows_that_are_not_ok_are_left_out_and_counted(flawed: Path) -> None:
    ds = gz3d_zarr.open_store(flawed)
    with pytest.warns(LeftOutWarning, match="2 subjects left out of the contact sheet: 2 corrupt"):
        sheet = ds.gz3d.contact_sheet()
    assert len([axes for axes in sheet.axes if axes.images]) == 4
    bad = ds.isel(subject=ds["status"].values != 0)
    with pytest.raises(
        UsageError, match="no subject is left for the contact sheet: 2 rows, 2 corr"
    ):
        bad.gz3d.contact_sheet()
    with pytest.raises(UsageError, match="has no image: its status is corrupt"):
        bad.gz3d.plot(int(bad["zooniverse_subject_id"][0]))


def test_pictures_that_cannot_be(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no subject to plot"):
        ds.isel(subject=slice(0)).gz3d.contact_sheet()
    with pytest.raises(UsageError, match="201 subjects do not fit on"):
        ds.isel(subject=[0] * 201).gz3d.contact_sheet()
    with pytest.raises(UsageError, match="the list of ids is empty"):
        ds.gz3d.contact_sheet([])
    with pytest.raises(UsageError, match="columns is 0"):
        ds.gz3d.contact_sheet(columns=0)
    with pytest.raises(UsageError, match="no class 'arm'"):
        ds.isel(subject=0).gz3d.plot(classes=["arm"])
    with pytest.raises(UsageError, match="threshold is 300"):
        ds.isel(subject=0).gz3d.plot(threshold=300)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib: .* pip install 'gz3d-zarr\[plot\]'"):
        ds.isel(subject=0).gz3d.plot()


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["plot", *map(str, args)])


def test_the_command_saves_a_plot_or_a_contact_sheet(store: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one.png", tmp_path / "many.png"
    result = run(store, 14000007, "-o", one)
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (f"{one}\n", "")
    wide = imread(one)
    assert wide.shape[1] > 1.5 * wide.shape[0]
    ids = gz3d_zarr.open_store(store)["subject"].values[:4]
    result = run(store, *ids, "-o", many, "--threshold", "5")
    assert result.exit_code == 0, result.output
    assert imread(many).std() > 0.05


def test_the_command_counts_what_it_leaves_out(flawed: Path, tmp_path: Path) -> None:
    ids = gz3d_zarr.open_store(flawed)["zooniverse_subject_id"].values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(flawed, *ids, "-o", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "Warning: 2 subjects left out of the contact sheet: 2 corrupt" in result.stderr
    assert result.stdout == f"{tmp_path / 'a.png'}\n"


def test_the_command_says_what_is_wrong(store: Path, tmp_path: Path) -> None:
    result = run(store, "1-60001", "-o", tmp_path / "a.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "near matches: 1-6000" in result.stderr
    result = run(store, "14000007", "-o", tmp_path / "a.xyz")
    assert result.exit_code == 2
    assert "the figure cannot be written" in result.stderr
    result = run(store, "14000007", "-o", tmp_path / "none" / "a.png")
    assert result.exit_code == 2
    assert run(tmp_path / "none.zarr", "1-1", "-o", tmp_path / "a.png").exit_code == 1
    assert run(store, "-o", tmp_path / "a.png").exit_code == 2
    assert list(tmp_path.iterdir()) == []
