import numpy as np
import pytest
from astropy.io import fits
from simulated_stars import integrated, moffat

from galprep_dask.errors import ImageFileError, ImageNotFoundError, OutputExistsError, ParameterError
from galprep_dask.psf import PSFModel, read_psfex, to_gridded, write_psfex, write_stdpsf
from galprep_dask.psf.field import make_field


def varying(oversampling=1, size=31):
    """A model of degree 2, made without a fit."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1000, (2, 50))
    field = make_field(x, y, 2, np.ones(50))
    fine = size * oversampling - (size * oversampling + 1) % 2
    base = integrated(moffat(3.0 * oversampling), 0, 0, fine)
    wide = integrated(moffat(3.4 * oversampling, e1=0.1), 0, 0, fine)
    coefficients = np.zeros((6, fine, fine))
    coefficients[0] = base / base.sum()
    difference = wide / wide.sum() - base / base.sum()
    for m, amount in enumerate((0.3, -0.2, 0.1, 0.2, -0.1), 1):
        coefficients[m] = amount * difference
    return PSFModel(coefficients, size, oversampling, field)


@pytest.mark.parametrize("oversampling", [1, 3])
def test_model_file_brings_everything_back(tmp_path, oversampling):
    model = varying(oversampling)
    model.to_fits(tmp_path / "psf.fits")
    again = PSFModel.from_fits(tmp_path / "psf.fits")
    np.testing.assert_array_equal(again.at(300, 700), model.at(300, 700))
    assert again.degree == 2
    assert again.oversampling == oversampling
    written = fits.getdata(tmp_path / "psf.fits", 0)
    assert written.dtype == np.dtype(">f4")
    assert abs(written.sum(dtype=float) - 1) < 1e-6
    with pytest.raises(OutputExistsError):
        model.to_fits(tmp_path / "psf.fits")
    model.to_fits(tmp_path / "psf.fits", overwrite=True)


def test_files_that_are_no_models_are_named(tmp_path):
    with pytest.raises(ImageNotFoundError, match="nothing"):
        PSFModel.from_fits(tmp_path / "nothing.fits")
    fits.PrimaryHDU(np.ones((5, 5))).writeto(tmp_path / "image.fits")
    with pytest.raises(ImageFileError, match="from_image"):
        PSFModel.from_fits(tmp_path / "image.fits")
    with pytest.raises(ImageFileError, match="PSFEx"):
        read_psfex(tmp_path / "image.fits")
    with pytest.raises(ImageNotFoundError):
        read_psfex(tmp_path / "nothing.psf")
    with pytest.raises(ParameterError, match="odd"):
        PSFModel.from_image(np.ones((4, 4)))
    for pixels in (0.0, np.nan, -1.0):
        with pytest.raises(ParameterError, match="add up to"):
            PSFModel.from_image(np.full((5, 5), pixels))


@pytest.mark.parametrize("oversampling", [1, 3])
def test_psfex_file_comes_back(tmp_path, oversampling):
    model = varying(oversampling)
    write_psfex(model, tmp_path / "stars.psf")
    again = read_psfex(tmp_path / "stars.psf", oversampling=oversampling)
    assert again.oversampling == oversampling
    for x, y in ((100.0, 200.0), (500.0, 500.0), (800.0, 300.0)):
        image = model.at(x, y)
        np.testing.assert_allclose(again.at(x, y), image, atol=2e-3 * image.max() if oversampling > 1 else 1e-6)


def test_psfex_file_follows_its_own_definition(tmp_path):
    """Powers of (x - POLZERO) / POLSCAL with x counted from 1, as PSFEx says, evaluated here by hand."""
    model = varying()
    write_psfex(model, tmp_path / "stars.psf")
    with fits.open(tmp_path / "stars.psf") as hdus:
        head, mask = hdus[1].header, hdus[1].data["PSF_MASK"][0].astype(float)
    u = (250.0 + 1 - head["POLZERO1"]) / head["POLSCAL1"]
    v = (600.0 + 1 - head["POLZERO2"]) / head["POLSCAL2"]
    terms = np.array([1, u, u * u, v, u * v, v * v])
    image = np.tensordot(terms, mask, 1)
    np.testing.assert_allclose(image / image.sum(), model.at(250.0, 600.0), atol=1e-5)


def test_hull_of_the_stars_survives_a_psfex_file(tmp_path):
    model = varying()
    write_psfex(model, tmp_path / "stars.psf")
    again = read_psfex(tmp_path / "stars.psf", oversampling=1)
    for edge in (model.field.hull.min(0), model.field.hull.max(0)):  # PSFEx knows the rectangle alone
        assert again.inside(*edge)
        outside = edge + np.sign(edge - 500) * 5
        assert not again.inside(*outside)


def test_shape_of_higher_degree_survives_files(tmp_path):
    """Every pixel varies to degree 2, and what follows from size and shape to degree 4."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 1000, (2, 80))
    low, field = make_field(x, y, 2, np.ones(80)), make_field(x, y, 2, np.ones(80), 4)
    np.testing.assert_allclose(field.basis(x, y)[:, :6], low.basis(x, y), atol=1e-9)
    assert (low.total, field.degree, field.total) == (2, 2, 4)
    plain = varying()
    noise = rng.normal(0, 0.01 * plain.coefficients.max(), 9)[:, None, None]
    model = PSFModel(np.concatenate([plain.coefficients, noise * plain.coefficients[1]]), 31, 1, field)
    model.to_fits(tmp_path / "psf.fits")
    again = PSFModel.from_fits(tmp_path / "psf.fits")
    assert again.degree == 2
    np.testing.assert_array_equal(again.at(300, 700), model.at(300, 700))
    write_psfex(model, tmp_path / "stars.psf")
    exported = read_psfex(tmp_path / "stars.psf", oversampling=1)
    assert exported.degree == 4
    np.testing.assert_allclose(exported.at(300, 700), model.at(300, 700), atol=1e-6)


def test_twice_finer_pixels_survive_a_psfex_file(tmp_path):
    """An odd stamp has an odd number of half pixels: one less than twice as many."""
    offset = (np.arange(61) - 30) / 2
    fine = (1 + (offset**2 + offset[:, None] ** 2) / 4) ** -3.0
    model = PSFModel((fine / fine.sum())[None], 31, 2)
    write_psfex(model, tmp_path / "stars.psf")
    again = read_psfex(tmp_path / "stars.psf")
    assert (again.oversampling, again.image.shape) == (2, (31, 31))
    np.testing.assert_allclose(again.image, model.image, atol=1e-4 * model.image.max())
    np.testing.assert_allclose(again.at(dx=0.3, dy=-0.2), model.at(dx=0.3, dy=-0.2), atol=1e-4 * model.image.max())


def lanczos(x):
    """Kernel of order 4, with which PSFEx resamples."""
    return np.where(np.abs(x) < 4, np.sinc(x) * np.sinc(x / 4), 0)


@pytest.mark.parametrize("place", [(500.0, 500.0), (140.0, 180.0), (1700.0, -2800.0), (-200.0, 1100.0)])
def test_psf_of_a_survey_is_that_of_psfex_everywhere(shared_data, tmp_path, place):
    """The survey's model evaluated as its manual says, beside ours, and beside ours written and read again."""
    path = shared_data / "decam_tc8" / "c4d_171113_060340_ooi_r_ls9-psfex.fits"
    row = fits.getdata(path, 1)[0]
    assert row["psf_samp"] == 1
    u, v = ((at + 1 - row[f"polzero{i}"]) / row[f"polscal{i}"] for i, at in enumerate(place, 1))
    basis = np.tensordot([1, u, u * u, v, u * v, v * v], row["psf_mask"].astype(float), 1)
    model = read_psfex(path)
    write_psfex(model, tmp_path / "again.psf")
    again = read_psfex(tmp_path / "again.psf")
    offset = np.arange(63.0) - 31
    for dx, dy in ((0.0, 0.0), (0.3, -0.4)):
        along_x, along_y = (lanczos((offset - d)[:, None] - offset) for d in (dx, dy))
        theirs = along_y @ basis @ along_x.T
        theirs = theirs / theirs.sum()
        ours = model.at(*place, dx=dx, dy=dy)
        np.testing.assert_allclose(again.at(*place, dx=dx, dy=dy), ours, atol=1e-6 * ours.max())
        # Ours is centred on the middle pixel, theirs nearly so.
        slopes = [slope.ravel() for slope in np.gradient(theirs)]
        solved, *_ = np.linalg.lstsq(np.stack([theirs.ravel(), *slopes], 1), ours.ravel(), rcond=None)
        left = ours - solved[0] * theirs - (solved[1] * slopes[0] + solved[2] * slopes[1]).reshape(63, 63)
        assert solved[0] == pytest.approx(1, abs=3e-3)
        assert np.abs(solved[1:]).max() < 0.05
        # Lanczos' kernel of order 4 is not the sinc: that, and no more, where the star is shifted.
        assert np.abs(left).max() < (1e-3 if dx == 0 else 5e-3) * theirs.max()


def test_psfex_file_of_a_survey_is_read(shared_data):
    path = shared_data / "decam_tc8" / "c4d_171113_060340_ooi_r_ls9-psfex.fits"
    model = read_psfex(path)
    assert model.degree == 2
    assert model.oversampling == 1
    assert model.image.shape == (63, 63)
    assert 3.5 < model.fwhm < 4.7  # PSF_FWHM is that of the stars in its catalogue
    row = fits.getdata(path, 1)[0]
    # At the centre of the polynomials only the first component counts.
    x, y = row["polzero1"] - 1, row["polzero2"] - 1
    first = row["psf_mask"][0].astype(float)
    np.testing.assert_allclose(model.at(x, y, dx=0, dy=0).max(), (first / first.sum()).max(), rtol=0.01)
    assert model.inside(x, y)


@pytest.mark.parametrize("oversampling", [1, 3])
def test_gridded_model_of_photutils_gives_the_same_stars(oversampling):
    model = varying(oversampling)
    grid = to_gridded(model, (1000, 1000), n_grid=9)
    iy, ix = np.mgrid[-15:16, -15:16]
    x, y = 499.5, 499.5  # a grid point
    for dx, dy in ((0.0, 0.0), (0.3, -0.4)):
        theirs = grid.evaluate(ix + round(x), iy + round(y), 1.0, round(x) + dx, round(y) + dy)
        ours = model.at(round(x), round(y), dx=dx, dy=dy)
        np.testing.assert_allclose(theirs / theirs.sum(), ours, atol=2e-3 * ours.max())
        assert abs(theirs.sum() - 1) < 0.01
    for write in (write_stdpsf, write_psfex):
        with pytest.raises(ParameterError, match="PSFModel is expected, not ndarray"):
            write(model.image, "none.fits")
    with pytest.raises(ParameterError, match="n_grid"):
        to_gridded(model, (10, 10), n_grid=1)
    with pytest.raises(ParameterError, match="shape"):
        to_gridded(PSFModel.from_image(model.image))


#: Positions between the grid's points, and one of which x and y must not be swapped.
BETWEEN = [(310.0, 720.0), (720.0, 310.0), (905.0, 130.0)]


def test_grids_give_the_psf_between_their_points(tmp_path):
    from photutils.psf import GriddedPSFModel

    model = varying()
    write_stdpsf(model, tmp_path / "grid.fits", (1000, 1000), n_grid=9)
    grids = to_gridded(model, (1000, 1000), n_grid=9), GriddedPSFModel.read(tmp_path / "grid.fits")
    iy, ix = np.mgrid[-15:16, -15:16]
    images = [model.at(*place) for place in BETWEEN]
    peak = images[0].max()
    assert np.abs(images[0] - images[1]).max() > 0.02 * peak
    for (x, y), ours in zip(BETWEEN, images, strict=True):
        for grid in grids:
            theirs = grid.evaluate(ix + x, iy + y, 1.0, x, y)
            np.testing.assert_allclose(theirs / theirs.sum(), ours, atol=4e-3 * peak)


def test_grid_has_the_sampling_that_is_asked_for():
    model = varying()
    grid = to_gridded(model, (1000, 1000), n_grid=2, oversampling=5)
    np.testing.assert_array_equal(grid.oversampling, 5)
    assert grid.data.shape[1:] == (31 * 5, 31 * 5)
    hull = to_gridded(model, n_grid=3)  # without a shape: over the stars
    np.testing.assert_allclose(np.min(hull.grid_xypos, axis=0), model.field.hull.min(0))
    np.testing.assert_allclose(np.max(hull.grid_xypos, axis=0), model.field.hull.max(0))


def test_stdpsf_file_is_read_by_photutils(tmp_path):
    from photutils.psf import GriddedPSFModel

    model = varying()
    write_stdpsf(model, tmp_path / "grid.fits", (1000, 1000), n_grid=3)
    grid = GriddedPSFModel.read(tmp_path / "grid.fits")
    np.testing.assert_allclose(np.asarray(grid.grid_xypos)[[0, -1]], [[0, 0], [999, 999]])
    iy, ix = np.mgrid[-15:16, -15:16]
    theirs = grid.evaluate(ix + 500, iy + 500, 1.0, 500, 500)
    np.testing.assert_allclose(theirs / theirs.sum(), model.at(500, 500), atol=5e-3 * model.at(500, 500).max())
