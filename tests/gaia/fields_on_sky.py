"""Images anywhere on the sky, and stars in and around them."""

import numpy as np
from astropy.wcs import WCS


def wcs_at(ra, dec, shape, scale=0.26, angle=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[-cos, sin], [sin, cos]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def stars_around(wcs, shape, n, seed=0, spread=1.5):
    """Positions in and around an image, in degrees and pixels."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    x = (rng.uniform(-0.5, 0.5, n) * spread + 0.5) * nx - 0.5
    y = (rng.uniform(-0.5, 0.5, n) * spread + 0.5) * ny - 0.5
    return (*wcs.all_pix2world(x, y, 0), x, y)
