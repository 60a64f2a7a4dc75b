"""A run that takes a second: two small bands with six galaxies, and a PSF in a file."""

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from fields import gaussian, tan_header

SIDE = 200
NAMES = list("abcdef")
POSITIONS = np.array([(40, 45), (100, 40), (160, 52), (45, 130), (105, 150), (150, 120)], float)


def write_inputs(folder, bands=("r", "k")):
    """Images of 0.5 and 1 arcsec a pixel, targets and a PSF."""
    rng = np.random.default_rng(0)
    for n, name in enumerate(bands):
        factor = n + 1
        shape = (SIDE // factor, SIDE // factor)
        image = rng.normal(50, 1, shape) + np.linspace(0, 2, shape[1])
        header = tan_header(shape, scale=0.5 * factor, GAIN=2.0, EXPTIME=100.0, MAGZERO=25.0, BUNIT="adu/s")
        for x, y in (POSITIONS + 0.5) / factor - 0.5:
            image += gaussian(shape, x, y, 6000 / factor**2, 3.5 / factor, 2.5 / factor)
        fits.writeto(folder / f"{name}.fits", image.astype("f4"), header)
    ra, dec = sky_positions(POSITIONS)
    Table({"name": NAMES, "ra": ra, "dec": dec, "z": np.full(6, 0.1)}).write(folder / "targets.ecsv")
    y, x = np.mgrid[-7:8, -7:8]
    fits.writeto(folder / "psf.fits", np.exp(-(x**2 + y**2) / 6))


def sky_positions(xy):
    return WCS(tan_header((SIDE, SIDE))).all_pix2world(*np.transpose(xy), 0)


def write_config(folder, *, bands=("r", "k"), output="out", targets="targets.ecsv", name="config.toml", **changes):
    """A configuration; ``changes`` are keys of sections, ``cutout__size=15.0``, or of all bands, ``band__fwhm=2.0``."""
    sections = {"sky": {"order": 1, "max_grow_size": 20}, "detection": {"deblend": False}, "cutout": {"size": 12.0}}
    own = {"psf": "psf.fits"}
    for key, value in changes.items():
        section, key = key.split("__")
        (own if section == "band" else sections.setdefault(section, {}))[key] = value
    lines = [f'targets = "{targets}"', f'output = "{output}"']
    for band in bands:
        lines += ["[[bands]]", f'name = "{band}"', f'image = "{band}.fits"', *_lines(own)]
    for section, keys in sections.items():
        lines += [f"[{section}]", *_lines(keys)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def _lines(keys):
    return [f"{key} = {repr(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in keys.items()]


def tree(output):
    """Every file but intermediate images, with its bytes."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file())
    named = {path.relative_to(output).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith("work/")}


def inodes(output):
    """Every file but intermediate images and what is written at the end, with the number that a new file changes."""
    return {name: (output / name).stat().st_ino for name in tree(output)}
