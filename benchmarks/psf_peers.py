"""Other programs' PSFs of the same stars: each takes :class:`Stars` and gives ``render(dx, dy, x, y)``, an image.

``galprep`` and ``stack`` are this package; ``PSFEx`` is Debian's ``psfex``, which reads a catalogue; ``EPSFBuilder`` is
photutils'; ``Piff`` and ``PSFr`` are packages of PyPI. All get the same stamps and masks, and those that take weights
the same variances. PSFs at the data's sampling that have no rendering of their own are shifted as this package does.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from galprep_dask.psf import PSFModel, fit_psf, read_psfex, stack_psf

__all__ = ["PEERS", "Stars"]


class Stars(NamedTuple):
    """Sky-subtracted stamps (k, n, n), what is known of them, and what is asked for."""

    data: np.ndarray
    mask: np.ndarray
    variance: np.ndarray
    x: np.ndarray
    y: np.ndarray
    sky_std: float
    gain: float
    fwhm: float
    oversampling: int = 1
    degree: int = 0
    neighbours: str = "mask"
    local_sky: bool = False

    def take(self, which):
        """Give the stars of an index."""
        parts = {name: getattr(self, name)[which] for name in ("data", "mask", "variance", "x", "y")}
        return self._replace(**parts)


def galprep(stars):
    model = fit_psf(
        stars.data, mask=stars.mask, sky_std=stars.sky_std, gain=stars.gain, x=stars.x, y=stars.y, degree=stars.degree,
        local_sky=stars.local_sky, neighbours=stars.neighbours,
    )  # fmt: skip
    if model.oversampling > 1:
        print(f"    (galprep chose oversampling {model.oversampling})")
    return lambda dx, dy, x, y: model.at(x, y, dx=dx, dy=dy)


def stack(stars):
    model = stack_psf(stars.data, mask=stars.mask, local_sky=stars.local_sky)
    return lambda dx, dy, x, y: model.at(dx=dx, dy=dy)


def epsf_builder(stars):
    from photutils.psf import EPSFBuilder, EPSFStar, EPSFStars

    size = stars.data.shape[-1]
    middle = (size - 1) / 2
    cut = [
        EPSFStar(np.where(bad, 0.0, image), weights=np.where(bad, 0.0, variance**-0.5), cutout_center=(middle, middle))
        for image, bad, variance in zip(stars.data, stars.mask, stars.variance, strict=True)
    ]
    epsf, _ = EPSFBuilder(oversampling=stars.oversampling, maxiters=10, progress_bar=False)(EPSFStars(cut))
    iy, ix = np.mgrid[:size, :size] - middle

    def render(dx, dy, x, y):
        image = epsf.evaluate(ix, iy, 1.0, dx, dy)
        return image / image.sum()

    return render


def piff(stars):
    import galsim
    import piff as package

    size = stars.data.shape[-1]
    middle = size // 2
    sample = []
    for k, (image, bad) in enumerate(zip(stars.data, stars.mask, strict=True)):
        x, y = round(float(stars.x[k])), round(float(stars.y[k]))
        place = {"xmin": x - middle, "ymin": y - middle, "scale": 1.0}
        weight = np.where(bad, 0.0, 1 / stars.variance[k])
        drawn = galsim.Image(np.where(bad, 0.0, image), **place)
        data = package.StarData(drawn, galsim.PositionD(x, y), weight=galsim.Image(weight, **place))
        sample.append(package.Star(data, None))
    # Pixels of half the size where stars are narrow, as its authors do; more would have no bearing in the data.
    step, side = (1.0, min(size, 25)) if stars.oversampling == 1 else (0.5, min(2 * size, 41))
    model = package.PixelGrid(scale=step, size=side)
    psf = package.SimplePSF(model, package.BasisPolynomial(stars.degree))
    psf.fit(sample, wcs={0: galsim.PixelScale(1.0)}, pointing=None)

    def render(dx, dy, x, y):
        x, y = round(float(x)), round(float(y))
        empty = galsim.Image(size, size, xmin=x - middle, ymin=y - middle, scale=1.0)
        image = psf.draw(x=x, y=y, center=(x + dx, y + dy), image=empty, chipnum=0).array
        return image / image.sum()

    return render


def psfex(stars):
    """Write what SExtractor would have written, with these very stamps, and run PSFEx on it."""
    count, size = stars.data.shape[:2]
    middle = size // 2
    iy, ix = np.mgrid[:size, :size] - middle
    aperture = np.hypot(ix, iy) <= 3 * stars.fwhm
    # What is masked in an aperture is taken from the other side of the star.
    other = np.where(stars.mask[:, ::-1, ::-1], 0.0, stars.data[:, ::-1, ::-1])
    light = np.where(stars.mask, other, stars.data)
    flux = light[:, aperture].sum(1)
    error = np.sqrt(stars.variance[:, aperture].sum(1))
    core = np.where(np.hypot(ix, iy) <= stars.fwhm, np.maximum(light, 0), 0)
    dx, dy = ((core * axis).sum((1, 2)) / core.sum((1, 2)) for axis in (ix, iy))
    vignet = np.where(stars.mask, -1e30, stars.data).astype("f4")
    columns = {
        "NUMBER": np.arange(1, count + 1, dtype="i4"), "X_IMAGE": np.rint(stars.x) + 1 + dx,
        "Y_IMAGE": np.rint(stars.y) + 1 + dy, "FLUX_APER": flux, "FLUXERR_APER": error,
        "FLUX_RADIUS": np.full(count, 0.6 * stars.fwhm), "ELONGATION": np.ones(count),
        "FLAGS": np.zeros(count, "i2"), "SNR_WIN": flux / error,
    }  # fmt: skip
    kinds = {"NUMBER": "1J", "FLAGS": "1I"}  # PSFEx takes these types for granted, and needs the number 1
    table = [fits.Column(name, kinds.get(name, "1E"), array=values) for name, values in columns.items()]
    table.append(fits.Column("VIGNET", f"{size * size}E", dim=f"({size}, {size})", array=vignet))
    cards = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": 4096, "NAXIS2": 4096})
    cards.update({"SEXBKDEV": stars.sky_std, "SEXBKGND": 0.0, "SEXGAIN": stars.gain, "SEXSATUR": 1e9})
    # As bytes, and named characters afterwards: astropy would end every card of 80 characters with zeros.
    text = np.frombuffer("".join([card.image for card in cards.cards] + ["END".ljust(80)]).encode(), np.uint8)
    card_column = fits.Column("Field Header Card", f"{text.size}B", array=text[None])
    head = fits.BinTableHDU.from_columns([card_column], name="LDAC_IMHEAD")
    with tempfile.TemporaryDirectory() as folder:
        hdus = [fits.PrimaryHDU(), head, fits.BinTableHDU.from_columns(table, name="LDAC_OBJECTS")]
        fits.HDUList(hdus).writeto(Path(folder) / "stars.cat")
        content = (Path(folder) / "stars.cat").read_bytes()
        spelt = [f"TFORM1  = '{text.size}{kind}".ljust(20).encode() for kind in "BA"]
        (Path(folder) / "stars.cat").write_bytes(content.replace(*spelt, 1))
        samples = size * stars.oversampling
        arguments = {
            "PSF_SIZE": f"{samples},{samples}", "PSF_SAMPLING": 1 / stars.oversampling,
            "PSFVAR_DEGREES": stars.degree, "BASIS_TYPE": "PIXEL", "CHECKPLOT_TYPE": "NONE", "CHECKIMAGE_TYPE": "NONE",
            "WRITE_XML": "N", "PSF_RECENTER": "Y", "SAMPLE_MINSN": 5, "SAMPLE_MAXELLIP": 0.5,
            "SAMPLE_FWHMRANGE": "1.0,20.0", "VERBOSE_TYPE": "QUIET", "NTHREADS": 1,
        }  # fmt: skip
        words = [word for name, value in arguments.items() for word in (f"-{name}", str(value))]
        subprocess.run(
            ["psfex", "stars.cat", "-c", "/usr/share/psfex/default.psfex", *words], cwd=folder, check=True,
            capture_output=True,
        )  # fmt: skip
        model = read_psfex(Path(folder) / "stars.psf", oversampling=stars.oversampling)
    start = (model.size - size) // 2

    def render(dx, dy, x, y):
        image = model.at(x, y, dx=dx, dy=dy)
        return image[start : start + size, start : start + size] if start >= 0 else np.pad(image, -start)

    return render


def psfr(stars):
    from psfr.psfr import stack_psf as stack_of_psfr

    masks = [(~bad).astype(int) for bad in stars.mask]
    clean = np.where(stars.mask, 0.0, stars.data)
    result = stack_of_psfr(
        list(clean), oversampling=stars.oversampling, mask_list=masks, saturation_limit=None, num_iteration=10,
        verbose=False,
    )  # fmt: skip
    image = result[0]
    size = stars.data.shape[-1]
    model = PSFModel.from_image(image / image.sum(), oversampling=stars.oversampling)
    start = (size - model.size) // 2

    def render(dx, dy, x, y):
        image = model.at(dx=dx, dy=dy)
        return np.pad(image, start) if start >= 0 else image[-start : size - start, -start : size - start]

    return render


PEERS = {"galprep": galprep, "stack": stack, "PSFEx": psfex, "EPSFBuilder": epsf_builder, "Piff": piff, "PSFr": psfr}
