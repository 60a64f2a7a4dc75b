"""How a PSF varies over the field is learnt from few numbers."""

import numpy as np
import pytest
from simulated_stars import integrated, moffat

from galprep_dask.psf.field import make_field
from galprep_dask.psf.modes import find_modes, shape_derivatives, shrunk

SIZE = 25


def psf_at(size=0.0, e1=0.0, e2=0.0):
    """A Moffat profile whose coordinates are stretched by exp of a symmetric matrix."""
    values, axes = np.linalg.eigh(-np.array([[size + e1, e2], [e2, size - e1]]))
    matrix = axes @ np.diag(np.exp(values)) @ axes.T
    round_one = moffat(3.6)

    def profile(x, y):
        u, v = (row[0] * x + row[1] * y for row in matrix)
        return np.exp(-2 * size) * round_one(u, v)

    return integrated(profile, 0, 0, SIZE)


def test_table_of_low_rank_is_told_from_its_noise():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 4, (9, 3)) @ rng.normal(0, 4, (3, 40))
    left, right = shrunk(true + rng.standard_normal(true.shape))
    assert len(right) == 3
    # Three modes of 9 and 40 numbers are all that noise can be in: of 360 numbers, 138.
    assert np.mean((left @ right - true) ** 2) < 1.2 * 138 / 360
    left, right = shrunk(rng.standard_normal((9, 40)))
    assert left.shape == (9, 0)


def test_derivatives_of_size_and_shape():
    smooth, first, second = shape_derivatives(psf_at(), np.ones((SIZE, SIZE)), 3.6 / 2.35)
    for change in np.array([[0.06, 0, 0], [0, 0.06, 0], [0.04, 0.03, -0.05]]):
        true = psf_at(*change) - psf_at()
        to_first = np.tensordot(change, first, 1)
        to_second = to_first + 0.5 * np.einsum("i,j,ijkl->kl", change, change, second)
        wrong = [np.abs(found - true).max() for found in (to_first, to_second)]
        assert wrong[1] < 0.06 * np.abs(true).max()
        assert wrong[1] < 0.8 * wrong[0]


@pytest.mark.parametrize("extra", [False, True])
def test_modes_of_a_field_are_found(extra):
    """Size and shape go with the square of the position; a coma beside them is found as one more mode."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (2, 300))
    size, e1, e2 = 0.08 * (x**2 + y**2), 0.03 * x**2 - 0.02 * y, 0.04 * x * y
    iy, ix = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    coma = ix * (ix**2 + iy**2) * np.exp(-(ix**2 + iy**2) / 8)
    images = np.array([psf_at(*row) for row in zip(size, e1, e2, strict=True)])
    if extra:
        images = images + 0.02 * psf_at().max() * x[:, None, None] * coma / coma.max()
    field = make_field(x, y, 2, np.ones(300), 4)
    basis = field.basis(x, y)
    true = np.tensordot(np.linalg.pinv(basis), images, 1)
    sigma = 3e-4 * psf_at().max()
    diagonal = np.full(true.shape, 1 / sigma**2)
    noisy = true + rng.normal(0, sigma, true.shape)
    noisy[0] = true[0]
    modes = find_modes(noisy, diagonal, basis, np.ones(300), 6, 3.6 / 2.35)
    # Size and shape are three; what the third order of a large change leaves may be one more.
    assert 3 + extra <= 3 + modes.rank <= 6
    # What goes with a star's own flux and place is told by no star.
    own = np.stack([image.ravel() for image in (psf_at(), *np.gradient(psf_at()))], 1)
    off = [np.tensordot(basis[:, 1:], found[1:] - true[1:], 1).reshape(300, -1).T for found in (noisy, modes.mean)]
    off = [image - own @ np.linalg.lstsq(own, image, rcond=None)[0] for image in off]
    noise, wrong = (np.sqrt(np.mean(image**2)) for image in off)
    assert wrong < 0.35 * noise  # 14 coefficients of 625 pixels are known as well as a few numbers are
