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
from numpy.typing import NDArray

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, UsageError
from gz3d_zarr.analysis import plot_sheet
from gz3d_zarr.analysis.palette import CLASS_COLORS
from gz3d_zarr.analysis.picture_layers import MIN_RADIUS, find_opacity, outline_mask, rgb
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


def lines(axes: Axes, name: str) -> list[NDArray[np.float64]]:
    """Lines of a class, of the bundle or of scale bars, in the coordinates of the axes."""
    found = [c for c in axes.collections if c.get_label() == name]
    assert len(found) <= 1
    return [np.asarray(line) for c in found for line in c.get_segments()]


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def blend(row: xr.Dataset) -> NDArray[np.float64]:
    """Masks over the darker image, pixel for pixel."""
    blended = row["image"].values * 0.7
    for name, color in CLASS_COLORS.items():
        counts = row["segmentation"].sel({"class": name}).values
        opacity = find_opacity(counts, max(15, counts.max()))[..., None]
        blended = blended * (1 - opacity) + rgb(color) * opacity
    return blended


def test_a_plot_has_picture_masks_bars_bundle_and_legend(ds: xr.Dataset) -> None:
    some = ds.isel(subject=(ds["classifications"] == 0).any("class").values)
    row = some.isel(subject=most_marked(some))
    figure = ds.gz3d.plot(int(row["zooniverse_subject_id"]))
    assert isinstance(figure, Figure)
    left, right, *bars = figure.axes
    asked = dict(zip(CLASS_COLORS, (row["classifications"].values > 0).tolist(), strict=True))
    highest = {name: row["segmentation"].sel({"class": name}).values.max() for name in asked}
    assert 0 < sum(asked.values()) < 4
    shown = [name for name in asked if highest[name]]
    assert [bar.get_title() for bar in bars] == shown  # no bar of a class without marks
    for bar, name in zip(bars, shown, strict=True):
        assert bar.get_xlim() == (0, max(15, highest[name]))
    np.testing.assert_array_equal(left.images[0].get_array(), row["image"].values)
    np.testing.assert_allclose(right.images[0].get_array(), blend(row), atol=0.51)
    for axes in (left, right):
        assert str(axes.wcs.wcs.ctype[0]) == "RA---TAN"
        assert axes.wcs.wcs.crval.tolist() == [row["ra"].item(), row["dec"].item()]
        assert axes.get_ylim() == (524.5, -0.5)  # row 0, the north, is at the top
        (bundle,) = lines(axes, "bundle")
        np.testing.assert_allclose(bundle[:6], bundle_hexagon(row))
    labels = [
        name if highest[name] else f"{name} (no marks)" if is_asked else f"{name} (not asked)"
        for name, is_asked in asked.items()
    ]
    assert legend_labels(figure) == [*labels, "MaNGA bundle", "outline in image (too small)"]
    title = figure.legends[0].get_title().get_text()
    assert title == "Outlined: more than 3 marks. Rings: clusters of marks."
    assert str(row["subject"].item()) in left.get_title()
    assert f"Zooniverse {row['zooniverse_subject_id'].item()}" in left.get_title()


def test_nothing_of_a_plot_is_cut_or_covered(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    for panels, inches in ((None, 7.0), ("masks", 3.5), ("image", 3.5)):
        figure = row.gz3d.plot(panels=panels, dpi=100)
        assert figure.get_size_inches()[0] == inches
        assert figure.dpi == 100
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        whole = figure.get_tightbbox(renderer)
        assert whole.x0 >= 0
        assert whole.y0 >= 0
        assert whole.x1 <= inches
        assert whole.y1 <= figure.get_size_inches()[1]
        legend = figure.legends[0].get_window_extent(renderer)
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        assert not any(legend.overlaps(box) for box in boxes)
        assert not boxes[0].overlaps(boxes[-1]) or len(boxes) == 1


def test_panels_are_chosen(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    masks = row.gz3d.plot(panels="masks", classes=["spiral"], hexagon=False)
    assert [axes.get_title() for axes in masks.axes[1:]] == ["spiral"]
    assert lines(masks.axes[0], "spiral")
    assert not lines(masks.axes[0], "bundle")
    assert legend_labels(masks) == ["spiral", "outline in image (too small)"]
    image = row.gz3d.plot(panels="image")
    assert len(image.axes) == 1
    np.testing.assert_array_equal(image.axes[0].images[0].get_array(), row["image"].values)
    assert legend_labels(image) == ["MaNGA bundle", "outline in image (too small)"]
    sheet = ds.isel(subject=[0, 1]).gz3d.contact_sheet(panels="image")
    assert legend_labels(sheet) == ["MaNGA bundle", "outline in image (too small)"]
    assert not lines(sheet.axes[0], "center")
    (only,) = np.ravel(Figure().subplots(squeeze=False))
    row.gz3d.plot(ax=only, panels="image")
    np.testing.assert_array_equal(only.images[0].get_array(), row["image"].values)


def test_spaxels_are_shown_where_they_are(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    spaxels = row.gz3d.to_spaxels()["segmentation"].sel({"class": "spiral"})
    figure = row.gz3d.plot(panels="masks", spaxels=True, classes="spiral", hexagon=False)
    shown = figure.axes[0].images[0].get_array()
    sky = row.gz3d.to_spaxels()
    highest = float(spaxels.max())
    assert highest > 3
    j, i = np.unravel_index(int(spaxels.values.argmax()), spaxels.shape)
    x, y = row.gz3d.wcs().world_to_pixel_values(float(sky["ra"][j, i]), float(sky["dec"][j, i]))
    x, y = round(float(x)), round(float(y))
    opacity = find_opacity(np.array([highest]), max(15, highest))
    block = row["image"].values[y - 1 : y + 2, x - 1 : x + 2]
    expected = block * 0.7 * (1 - opacity) + rgb(CLASS_COLORS["spiral"]) * opacity
    np.testing.assert_allclose(shown[y - 1 : y + 2, x - 1 : x + 2], expected, atol=0.51)
    outlines = lines(figure.axes[0], "spiral")
    steps = np.concatenate([np.diff(line, axis=0) for line in outlines])
    straight = (np.abs(steps) < 1e-9).any(axis=1)
    assert straight.mean() > 0.6  # along the edges of spaxels


def test_a_scale_bar_and_arrows_are_drawn(ds: xr.Dataset) -> None:
    row = ds.isel(subject=0)
    arcsec = row["scale"].item() * 3600
    for axes in row.gz3d.plot().axes[:2]:
        ((start, end),) = lines(axes, "scale")
        assert start[1] == end[1]
        texts = {text.get_text(): text for text in axes.texts}
        assert set(texts) == {"10″", "N", "E"}
        assert (end[0] - start[0]) * arcsec == pytest.approx(10)
        north, east = texts["N"].get_position(), texts["E"].get_position()
        assert north[1] < texts["N"].xy[1]  # up: rows are counted downwards
        assert east[0] < texts["E"].xy[0]
    sheet = ds.isel(subject=slice(4)).gz3d.contact_sheet(columns=4)
    bars = lines(sheet.axes[0], "scale")
    assert len(bars) == 4
    inches = 525 * arcsec / (7 / 4 - 0.06)
    assert np.ptp(bars[0][:, 0]) * inches == pytest.approx(10)


def center_of(line: NDArray[np.float64]) -> list[float]:
    middle = line[:-1].mean(axis=0)
    return [float(value) for value in middle]


def test_centers_and_stars_have_rings_from_their_clusters(ds: xr.Dataset, simulated: Path) -> None:
    i = int(ds["number_foreground_stars"].values.argmax())
    row = ds.isel(subject=i)
    expected = {
        name: [[c["x"].value, c["y"].value] for c in row.gz3d.clusters(name)]
        for name in ("center", "star")
    }
    assert len(expected["star"]) > 1
    left, right, *_ = row.gz3d.plot().axes
    source = gz3d_zarr.open_source(simulated, ids=[int(ds["zooniverse_subject_id"][i])])
    from_files = source.gz3d.plot().axes[1]
    for name, places in expected.items():
        assert lines(left, name) == []
        for axes in (right, from_files):
            rings = lines(axes, name)
            np.testing.assert_allclose([center_of(ring) for ring in rings], places)
            for ring, place in zip(rings, places, strict=True):
                radii = np.hypot(*(ring - place).T)
                assert radii.min() > MIN_RADIUS - 0.1
    colors = {c.get_label(): to_hex(c.get_edgecolor()[0]) for c in right.collections}
    assert {name: colors[name] for name in expected} == {n: CLASS_COLORS[n] for n in expected}
    sheet = ds.isel(subject=[0, i]).gz3d.contact_sheet(classes=["star"]).axes[0]
    rings = lines(sheet, "star")[-len(expected["star"]) :]
    side = 3.5 - 0.06
    places = np.array(expected["star"]) + 0.5
    corner = np.array([center_of(ring) for ring in rings]) - places * side / 525
    np.testing.assert_allclose(corner, np.broadcast_to(corner[0], corner.shape), atol=1e-9)
    assert corner[0, 0] == pytest.approx(3.53)
    bare = source.drop_encoding().gz3d.plot()
    assert bare.legends[0].get_title().get_text() == "Outlined: more than 3 marks."


def test_rings_are_ellipses_that_can_be_seen() -> None:
    ring = make_ring("star", 10, 20, 100, 400, 0)
    np.testing.assert_allclose(np.ptp(ring.outline(5), axis=0), [40, 80], rtol=0.01)
    np.testing.assert_allclose(ring.outline(5)[[0, -1]].sum(0), 2 * ring.outline(5)[0])
    for tiny in (make_ring("star", 1, 2, 0, 0, 0), make_ring("star", 1, 2, np.inf, np.nan, 0)):
        np.testing.assert_allclose(np.hypot(*(tiny.outline(5) - [1, 2]).T), 5)
    tilted = make_ring("center", 0, 0, 100, 100, 99).outline(5)  # 2 sigma across would be 4
    radii = np.hypot(*tilted.T)
    assert radii.min() == pytest.approx(5, rel=0.01)
    x, y = tilted[radii.argmax()]
    assert abs(np.degrees(np.arctan2(y, x)) % 180 - 45) < 6


def test_outlines_run_between_pixels() -> None:
    mask = np.zeros((10, 12), bool)
    mask[3:6, 4:9] = True
    (line,) = outline_mask(mask)
    assert (line.min(axis=0).tolist(), line.max(axis=0).tolist()) == ([3.5, 2.5], [8.5, 5.5])
    assert outline_mask(np.zeros((10, 12), bool)) == []
    mask[:, :] = False
    mask[0, 0] = True
    (corner,) = outline_mask(mask)
    assert corner.max() == 0.5
    assert outline_mask(np.ones((1, 5), bool)) == []


def test_classes_that_nobody_was_asked_about_are_named(ds: xr.Dataset) -> None:
    volunteers = ds["classifications"].values
    i = int(np.flatnonzero((volunteers[:, 2] == 0) & (volunteers[:, 0] > 0))[0])
    row = ds.isel(subject=i)
    assert "spiral (not asked)" in legend_labels(row.gz3d.plot())
    sheet = ds.isel(subject=[i]).gz3d.contact_sheet(classes=["center", "spiral"])
    assert "not asked: spiral" in [text.get_text() for text in sheet.axes[0].texts]
    few = row.drop_vars("classifications").gz3d.plot()
    assert "spiral (no marks)" in legend_labels(few)


def test_notebooks_show_a_plot(ds: xr.Dataset) -> None:
    rows = ds.isel(subject=[0, 1])
    pickled = pickle.loads(pickle.dumps(rows.gz3d.contact_sheet(dpi=50)))
    for figure in (rows.isel(subject=0).gz3d.plot(dpi=50), pickled):
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
    assert [bar.get_title() for bar in one.child_axes] == ["center"]
    assert not lines(one, "bundle")
    title = one.get_legend().get_title().get_text()
    assert title == "Outlined: more than 5 marks. Rings: clusters of marks."
    assert figure.axes == [one]
    figure = row.sel({"class": "center"}).gz3d.plot()
    assert [bar.get_title() for bar in figure.axes[2:]] == ["center"]
    figure = Figure()
    two = figure.subplots(1, 2)
    assert row.gz3d.plot(ax=two) is figure
    np.testing.assert_array_equal(two[0].images[0].get_array(), row["image"].values)
    sheet = Figure()
    panels = sheet.subplots(1, 3)
    assert ds.gz3d.contact_sheet(ds["zooniverse_subject_id"][:3], panels, title="3") is sheet
    assert sheet.get_suptitle() == "3"
    for i, panel in enumerate(panels):
        (bundle,) = lines(panel, "bundle")
        np.testing.assert_allclose(bundle[:6], bundle_hexagon(ds.isel(subject=i)))
        np.testing.assert_allclose(
            panel.images[0].get_array(), blend(ds.isel(subject=i)), atol=0.51
        )
        assert str(ds["zooniverse_subject_id"][i].item()) in panel.get_title()
    with pytest.raises(UsageError, match="takes one or two axes, not 3"):
        row.gz3d.plot(ax=panels)
    with pytest.raises(UsageError, match="panels is both, which needs as many .*: 2, not 1"):
        row.gz3d.plot(ax=one, panels="both")
    with pytest.raises(UsageError, match="4 subjects need as many axes, not 3"):
        ds.isel(subject=slice(4)).gz3d.contact_sheet(ax=panels)


def test_axes_may_come_in_an_array_of_two_dimensions(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    figure = Figure()
    axes = figure.subplots(2, 1, squeeze=False)
    assert row.gz3d.plot(ax=axes) is figure
    assert not lines(axes[0, 0], "spiral")
    assert lines(axes[1, 0], "spiral")
    one = Figure().subplots(1, 1, squeeze=False)
    assert lines(row.gz3d.plot(ax=one).axes[0], "spiral")


def test_one_class_may_be_named_alone(ds: xr.Dataset) -> None:
    row = ds.isel(subject=most_marked(ds))
    *_, bar = row.gz3d.plot(classes="spiral").axes
    assert bar.get_title() == "spiral"
    sheet = ds.isel(subject=slice(2)).gz3d.contact_sheet(classes="bar")
    assert legend_labels(sheet)[0] == "bar"
    with pytest.raises(UsageError, match="no class 'spirals', expected .* did you mean spiral"):
        row.gz3d.plot(classes="spirals")


def sheet_titles(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if "(" in text.get_text()]


def test_a_contact_sheet_has_all_subjects_asked_for(ds: xr.Dataset) -> None:
    sheet = ds.isel(subject=slice(5)).gz3d.contact_sheet(columns=2, title="five")
    assert len(sheet.axes) == 1
    assert len(sheet.axes[0].images) == 1
    assert len(sheet.axes[0].collections) <= 6
    assert sheet.get_suptitle() == "five"
    assert len(lines(sheet.axes[0], "bundle")) == 5
    labels = ds["subject"].values.tolist()
    repeated = next(label for label in labels if labels.count(label) == 2)
    titles = sheet_titles(ds.gz3d.contact_sheet([repeated, 14000007]))
    assert len(titles) == 3
    assert [repeated in title for title in titles] == [True, True, False]
    assert "14000007" in titles[2]


def test_tiles_of_a_sheet_lie_where_their_lines_do(ds: xr.Dataset) -> None:
    """Each bundle has its picture, scaled, at its place."""
    sheet = ds.isel(subject=slice(3)).gz3d.contact_sheet(columns=3, dpi=100)
    (image,) = sheet.axes[0].images
    pixels = image.get_array().astype(float)
    for i, bundle in enumerate(lines(sheet.axes[0], "bundle")):
        x, y = np.rint(center_of(bundle) @ (100 * np.eye(2))).astype(int)
        whole = blend(ds.isel(subject=i))
        seen = pixels[y - 40 : y + 40, x - 40 : x + 40].mean((0, 1))
        half = round(40 / 100 / (7 / 3 - 0.06) * 525)
        expected = whole[262 - half : 262 + half, 262 - half : 262 + half].mean((0, 1))
        np.testing.assert_allclose(seen, expected, atol=3)
        beyond = pixels[y, int(x + (7 / 3 - 0.06) * 50 + 2)]
        assert beyond.tolist() == [255, 255, 255]  # the gap


def test_text_on_a_sheet_is_whole_and_can_be_read(ds: xr.Dataset) -> None:
    figure = ds.gz3d.contact_sheet(title="all", dpi=100)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    width, height = figure.get_size_inches() * 100
    assert width == 700  # of a page
    titles = [text for text in figure.axes[0].texts if "″" not in text.get_text()]
    assert len(titles) > 18
    boxes = [text.get_window_extent(renderer) for text in titles]
    boxes += [figure.legends[0].get_window_extent(renderer)]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
    assert min(text.get_fontsize() for text in titles) >= 6  # points in print


def test_a_wide_sheet_has_tiles_of_a_readable_size(ds: xr.Dataset) -> None:
    rows = ds.isel(subject=slice(12))
    assert rows.gz3d.contact_sheet(columns=12).get_size_inches()[0] == pytest.approx(14, abs=0.01)
    assert rows.isel(subject=[0]).gz3d.contact_sheet().get_size_inches()[0] == 3.5


def test_a_file_is_read_once_for_all_that_is_drawn(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counting(path: str, *args: object) -> object:
        reads.append(path)
        return read_file(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(source_backend, "read_file", counting)
    source = gz3d_zarr.open_source(simulated)
    source.isel(subject=7).gz3d.plot()
    assert len(reads) == 1
    reads.clear()
    source.isel(subject=slice(18)).gz3d.contact_sheet()
    assert len(reads) == len(set(reads)) == 18  # more than are read together


def test_rows_that_are_not_ok_are_left_out_and_counted(flawed: Path) -> None:
    ds = gz3d_zarr.open_store(flawed)
    with pytest.warns(LeftOutWarning, match="2 subjects left out of the contact sheet: 2 corrupt"):
        sheet = ds.gz3d.contact_sheet()
    assert len(sheet_titles(sheet)) == 4
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
    with pytest.raises(UsageError, match="panels is both, but a contact sheet has one picture"):
        ds.gz3d.contact_sheet(panels="both")
    with pytest.raises(UsageError, match="panels is 'all', expected both, image, masks"):
        ds.isel(subject=0).gz3d.plot(panels="all")
    for dpi in (0, 5000, np.nan):
        with pytest.raises(UsageError, match="dpi is .*, expected a number from 20 to 1200"):
            ds.isel(subject=0).gz3d.plot(dpi=dpi)
    with pytest.raises(UsageError, match="hexagon is 'no', expected True or False"):
        ds.isel(subject=0).gz3d.plot(hexagon="no")
    with pytest.raises(UsageError, match="classes is 3, expected a name or several"):
        ds.isel(subject=0).gz3d.plot(classes=3)
    with pytest.raises(UsageError, match="unknown option color for plot; its options are classes"):
        ds.isel(subject=0).gz3d.plot(color="red")
    with pytest.raises(UsageError, match="unknown option dip for contact_sheet; .* columns, title"):
        ds.gz3d.contact_sheet(dip=100)
    monkeypatch.setattr(plot_sheet, "MAX_PIXELS", 100_000)
    with pytest.raises(UsageError, match="sheet would have 700 x .* pixels, .* 100,000: choose"):
        ds.gz3d.contact_sheet(dpi=100)
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
    result = run(store, 14000007, "-o", one, "--dpi", "50")
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (f"{one}\n", "")
    wide = imread(one)
    assert wide.shape[1] > 1.5 * wide.shape[0]
    ids = gz3d_zarr.open_store(store)["subject"].values[:4]
    result = run(store, *ids, "-o", many, "--threshold", "5", "--dpi", "50")
    assert result.exit_code == 0, result.output
    assert imread(many).std() > 0.05


def test_the_command_takes_the_options_of_python(store: Path, tmp_path: Path) -> None:
    bare = ["--panels", "masks", "--no-hexagon", "--dpi", "50", "--spaxels", "--threshold", "5"]
    by_command, by_python = tmp_path / "a.png", tmp_path / "b.png"
    result = run(
        store, 14000007, "-o", by_command, *bare, "--class", "spiral", "--classes", "center"
    )
    assert result.exit_code == 0, result.output
    row = gz3d_zarr.open_store(store).gz3d.sel(zooniverse_subject_id=14000007).isel(subject=0)
    row.gz3d.plot(
        panels="masks",
        hexagon=False,
        dpi=50,
        spaxels=True,
        threshold=5,
        classes=["spiral", "center"],
    ).savefig(by_python)
    assert imread(by_command).shape[1] == 175
    np.testing.assert_array_equal(imread(by_command), imread(by_python))
    result = run(store, 14000007, "-o", by_command, "--class", "arm")
    assert result.exit_code == 2
    result = run(store, 14000007, "-o", by_command, "--dpi", "9000")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "dpi is 9000, expected a number from 20 to 1200" in result.stderr


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
