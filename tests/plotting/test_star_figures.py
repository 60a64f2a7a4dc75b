import dask.array as da
import numpy as np
import pytest
from astropy.table import QTable
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color
from star_fields import detected, simulate_stars

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.plotting import plot_star_cuts, plot_star_stamps, plot_stellar_locus
from galprep_dask.psf import select_stars


@pytest.fixture(scope="module")
def field():
    return simulate_stars((500, 450), 40, seed=5, fwhm=3.0)


@pytest.fixture(scope="module")
def stars(field):
    return select_stars(field.image, detected(field.image), drop=[1])


def points(axes, colour):
    crowds = [crowd for crowd in axes.collections if isinstance(crowd, PathCollection)]
    return sum(len(c.get_offsets()) for c in crowds if same_color(c.get_facecolor()[0][:3], colour))


def test_six_panels_show_what_each_cut_left(stars, tmp_path):
    figure = plot_star_cuts(stars, title="field $_1", path=tmp_path / "cuts.png")
    assert (tmp_path / "cuts.png").stat().st_size > 10_000
    assert len(figure.axes) == 6
    counts = stars.meta["counts"]
    said = [axes.get_title().splitlines() for axes in figure.axes]
    assert [lines[1] for lines in said] == [
        f"{counts[after]} of {counts[before]} left"
        for before, after in [
            ("raw", "Gaia match"), ("Gaia match", "flux"), ("flux", "axis ratio"), ("axis ratio", "FWHM"),
            ("FWHM", "isolation"), ("isolation", "dropped by hand"),
        ]
    ]  # fmt: skip
    assert "dropped by hand" in said[-1][0]
    taken = counts["axis ratio"] - counts["FWHM"] - sum(stars["reason"] == "FWHM: not measured")
    assert points(figure.axes[3], "#b2182b") == taken
    assert points(figure.axes[3], "#2166ac") == counts["FWHM"]
    assert points(figure.axes[5], "#2166ac") == stars["used"].sum()


def test_a_table_from_a_file_is_drawn_alike(stars, tmp_path):
    stars.write(tmp_path / "stars.ecsv")
    titles = [
        [axes.get_title() for axes in plot_star_cuts(table).axes]
        for table in (stars, QTable.read(tmp_path / "stars.ecsv", fill_values=[]))
    ]
    assert titles[0] == titles[1]


def test_locus_is_drawn_through_the_stars(stars, tmp_path):
    figure = plot_stellar_locus(stars, zeropoint=25.0, path=tmp_path / "locus.png")
    plane, plan = figure.axes[:2]
    assert plane.get_xlabel() == "magnitude"
    assert points(plane, "#2166ac") == stars["used"].sum()
    level = plane.lines[0].get_ydata()[0]
    assert level == pytest.approx(stars.meta["fwhm"], rel=0.02)
    assert plan.get_xlim() == (-0.5, 449.5)
    labels = [text.get_text() for text in plane.get_legend().get_texts()]
    assert f"stars ({stars['used'].sum()})" in labels


def test_stamps_carry_the_numbers_by_which_stars_are_dropped(field, stars, tmp_path):
    total = int(stars["number"].max()) + 1
    figure = plot_star_stamps(field.image, stars, path=tmp_path / "stamps.png")
    assert [int(axes.get_title().split()[0]) for axes in figure.axes] == list(range(total))
    for axes, row in zip(figure.axes, stars[stars["number"] >= 0], strict=True):
        assert f"{row['fwhm'].value:.2f} px" in axes.get_title()
        stamp = axes.images[0].get_array()
        assert np.unravel_index(np.nanargmax(stamp), stamp.shape) is not None
        half = stars.meta["size"] // 2
        assert np.nanmax(stamp[half - 1 : half + 2, half - 1 : half + 2]) > 0.9
        assert bool(axes.lines) == (row["reason"] == "dropped by hand")


def test_few_stamps_of_many_and_their_chi2(field, stars):
    table = stars.copy()
    table["chi2"] = 1.25
    lazy = da.from_array(field.image, chunks=(64, 100))
    figure = plot_star_stamps(lazy, table, start=2, most=3, size=15, title="r")
    assert len(figure.axes) == 3
    assert "1.25" in figure.axes[0].get_title()
    assert figure.axes[0].images[0].get_array().shape == (15, 15)
    assert figure.get_suptitle() == f"r: stars 2 to 4 of {table['number'].max() + 1}"


def test_stamp_at_the_edge_is_grey_beyond(field, stars):
    table = stars.copy()
    table["x"][table["number"] == 0] = 3.0
    stamp = plot_star_stamps(field.image, table, most=1).axes[0].images[0].get_array()
    half = stars.meta["size"] // 2
    assert np.ma.getmaskarray(np.ma.masked_invalid(stamp))[:, : half - 3].all()


def test_bad_input(field, stars):
    for plot in (plot_star_cuts, plot_stellar_locus):
        with pytest.raises(ParameterError, match="no table of select_stars"):
            plot({"x": [1.0]})
    with pytest.raises(ParameterError, match="no table of select_stars"):
        plot_star_stamps(field.image, {"x": [1.0]})
    with pytest.raises(ImageShapeError, match="data has shape"):
        plot_star_stamps(field.image[1:], stars)
    with pytest.raises(ParameterError, match="start=500"):
        plot_star_stamps(field.image, stars, start=500)
    with pytest.raises(ParameterError, match="size=10"):
        plot_star_stamps(field.image, stars, size=10)
    lost = stars.copy()
    lost.meta["locus"] = None
    with pytest.raises(ParameterError, match="no stellar locus"):
        plot_stellar_locus(lost)
