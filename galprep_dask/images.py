"""The image-preparation class of GalfitS, with its names and arguments, on lazy images.

A script written for ``galfits.images`` runs after ``from galprep_dask import images as IM``. Everything here
translates and forwards to the rooms of this package; nothing is computed here.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS

from galprep_dask._galfits import (
    LazyCCDData,
    check_not_negative,
    check_number,
    check_positive,
    half_sizes,
    open_source,
    pixel_pair,
    sky_matrix,
    told,
    whole_box,
)
from galprep_dask._galfits_psf import check_choices, choose_stars, draw_figures, figure_folder, fit_to_stars
from galprep_dask.arrays import as_image, as_mask, check_same_shape
from galprep_dask.blockwise import keep_mask
from galprep_dask.cutouts import cut_header, write_product
from galprep_dask.cutouts.position import box_around, brightest_pixel_near, sky_axes
from galprep_dask.cutouts.provenance import record_provenance
from galprep_dask.errors import (
    EdgeWarning,
    ImageShapeError,
    MissingWCSError,
    NoGoodPixelsError,
    ParameterError,
    TargetOutsideError,
)
from galprep_dask.image import (
    bad_pixels,
    celestial_wcs,
    describe,
    image_header,
    make_image,
    pixel_scale,
    position_in_degrees,
    sky_to_pixel,
    with_header,
)
from galprep_dask.io import write_image
from galprep_dask.io.atomic import check_output
from galprep_dask.masks import target_mask
from galprep_dask.noise import check_sigma, measure_sky_std, sigma_image, sky_exposure, unusable_pixels
from galprep_dask.sky import (
    fit_mean_sky,
    fit_median_sky,
    fit_polynomial_sky,
    fit_sky_between_sources,
    record_sky,
    subtract_sky,
)
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["image"]

_log = logging.getLogger("galprep_dask.images")


class image:
    """
    An image that is prepared for GalfitS step by step.

    Parameters
    ----------
    filename : path, array, CCDData or Dataset
        Whatever :func:`galprep_dask.open_image` takes. The ``sigma`` of a Dataset becomes ``sigma_image``.
    hdu : int or str
        HDU of a file. Where HDU 0 is the empty primary of a file with extensions, the first HDU with an image
        is taken, with a warning.
    phys_to_image : float, optional
        Image units per physical unit of flux; kept, and written to cutouts as PHYS2IM.
    unit : str, optional
        Unit of the pixels; by default BUNIT.
    zero_point : float, optional
        Photometric zero point in mag; by default from the header. Written to cutouts.
    pixel_scales : float, optional
        Side of a pixel in arcsec; by default from the WCS.
    wcs_rotation : float, optional
        Angle in degrees from the y axis to north, towards +x (north is at the top for 0); by default from the WCS.
        With ``pixel_scales`` it takes the place of a WCS where the file has none.
    mask : (ny, nx) bool array, path or (path, hdu), optional
        Bad pixels, True or non-zero = bad.
    verbose : bool
        Whether each step logs what it found.
    psfFWHM_map : float, optional
        FWHM of the PSF in arcsec for calls that pass ``psfFWHM=None``.

    Attributes
    ----------
    data : CCDData
        The image: ``.data`` a lazy dask array, ``.mask`` the bad pixels, ``.wcs``, ``.unit``, ``.header``.
    sky : (ny, nx) dask array
        The sky that was subtracted last, lazily; ``sky_model`` is the model behind it.
    source_mask : (ny, nx) bool dask array
        The mask that :meth:`sky_subtraction` used.
    sigma_image : (ny, nx) dask array
        From :meth:`cal_sigma_image`, or the Dataset.
    sigma_check : SigmaCheck
        How it compares with the noise, from there too; its ``ratio`` is SIGCHK of the files written.
    cut_image, cut_mask_image, cut_sigma_image : (ny, nx) NumPy arrays
        From :meth:`img_cut`; what is assigned to them is what :meth:`write_imcut` writes.
    model_image : (ny, nx) array
        A model of the cutout, for ``write_imcut(addmodel=True)``.
    sky_median : float
        Median of the cutout.
    stars, psf_model : QTable, PSFModel
        From :meth:`generate_PSFs`: every source with the reason why it was kept or not, and what was fitted.
    coordinates_transfer_para : dict
        Position of the target in the cutout and the matrix from arcsec (east, north) to pixels there.

    Examples
    --------
    >>> pixels = np.random.default_rng(0).normal(10, 1, (120, 120))
    >>> pixels[55:64, 55:64] += 50.0
    >>> img = image(pixels, pixel_scales=0.5)
    >>> masked = img.sky_subtraction(order=1)
    >>> cutout, position = img.img_cut(0, 0, 15.0, referpix=(59, 59))
    >>> cutout.shape, position, bool(abs(img.sky_median) < 0.3)
    ((61, 61), [29, 90, 29, 90], True)
    """

    def __init__(
        self,
        filename: Any = None,
        hdu: int | str = 0,
        phys_to_image: float | None = None,
        unit: str | None = None,
        zero_point: float | None = None,
        pixel_scales: float | None = None,
        wcs_rotation: float | None = None,
        mask: Any = None,
        verbose: bool = True,
        psfFWHM_map: float | None = None,
    ):
        if filename is None:
            raise ParameterError("filename=None: name a file, or pass an array, CCDData or Dataset.")
        for name, value in {"pixel_scales": pixel_scales, "psfFWHM_map": psfFWHM_map}.items():
            if value is not None:
                check_positive(name, value, "arcsec")
        numbers = {"phys_to_image": phys_to_image, "zero_point": zero_point, "wcs_rotation": wcs_rotation}
        for name, value in numbers.items():
            if value is not None:
                check_number(name, value)
        self._image = open_source(filename, hdu, unit, mask, zero_point)
        self.phys_to_image = phys_to_image
        self.zero_point = self._image.attrs.get("zeropoint")
        self.pixel_scales = pixel_scales
        self.wcs_rotation = wcs_rotation
        self.verbose = verbose
        self.psfFWHM_map = psfFWHM_map
        self.data = self._as_ccd()
        self.sky = self.sky_model = self.sigma_check = self.source_mask = None
        self.stars = self.psf_model = None
        self._calls: dict[str, dict] = {}  # what each step was called with, for the files
        self.sigma_image = self._image["sigma"].data if "sigma" in self._image else None
        self.cut_image = self.cut_mask_image = self.cut_sigma_image = self.model_image = None
        self.cut_position = self.sky_median = self.coordinates_transfer_para = None

    def _as_ccd(self) -> CCDData:
        data = self._image["data"].data
        mask = self._image["mask"].data if "mask" in self._image else None
        bad = bad_pixels(data, mask) if data.ndim == 2 else mask
        # A unit that astropy does not know is kept as a string in the header, and is no reason to fail.
        unit = u.Unit(self._image.attrs.get("unit", ""), parse_strict="silent")
        header = image_header(self._image)
        return LazyCCDData(data, unit=unit, mask=bad, header=header, wcs=self._wcs_or_none(header))

    def _wcs_or_none(self, header: fits.Header) -> WCS | None:
        try:
            return celestial_wcs(header, where=describe(self._image))
        except MissingWCSError:
            return None

    def to_dataset(self) -> xr.Dataset:
        """
        Give the image as it is now, lazily, for the rest of the package: ``image.to_dataset().galprep``.

        Returns
        -------
        xarray.Dataset
            ``data`` as it is in ``data.data``, the sky subtracted if it was; ``mask``; ``sigma`` if there is a sigma
            image; ``weight`` and ``segmentation`` where the source had them; header, unit, gain and the like. Nothing
            is computed.

        Examples
        --------
        >>> img = image(np.arange(6.0).reshape(2, 3), pixel_scales=0.5)
        >>> sorted(img.to_dataset().data_vars)
        ['data', 'mask']
        """
        # Of a cube the mask is what was given: it has one plane, and the cube may be NaN here and there.
        mask = self._bad() if self.data.data.ndim == 2 else self.data.mask
        image = make_image(
            self.data.data, mask=mask, sigma=self.sigma_image, weight=self._image.get("weight"),
            segmentation=self._image.get("segmentation"), header=self.data.header or None, zeropoint=self.zero_point,
        )  # fmt: skip
        return image.assign_attrs(self._image.attrs | image.attrs)

    # Step 1 -----------------------------------------------------------------------------------------------

    def sky_subtraction(
        self,
        sdmask: Any = None,
        polyfit: bool = True,
        order: int = 3,
        filepath: str | os.PathLike | None = None,
        psfFWHM: float | None = 1.5,
        nsigma: float = 3.0,
        npixels: int = 5,
        max_grow_size: int = 100,
        addgrow: float = 0,
        usemedian: bool = False,
    ) -> da.Array:
        """
        Mask the sources, fit the sky to the rest, and subtract it in place.

        Parameters
        ----------
        sdmask : (ny, nx) bool array, optional
            Source mask to use, in place of detecting sources.
        polyfit : bool
            Fit a polynomial of total degree ``order``; otherwise the clipped mean is subtracted.
        order : int
            Degree of the polynomial.
        filepath : path, optional
            Where to write the sky-subtracted image; a file that is there is replaced.
        psfFWHM : float
            Width in arcsec of the Gaussian that the image is smoothed with for detection.
        nsigma, npixels : float, int
            A source has this many connected pixels above the clipped median plus ``nsigma`` clipped
            standard deviations.
        max_grow_size, addgrow : int, float
            How far in pixels the masks grow, see :func:`galprep_dask.masks.grow_mask`.
        usemedian : bool
            Subtract the clipped median, whatever ``polyfit`` says.

        Returns
        -------
        (ny, nx) bool dask array
            The mask used: sources, their surroundings, bad pixels.

        Raises
        ------
        ImageShapeError, NoGoodPixelsError, TooFewPixelsError, ParameterError, MissingWCSError
            ``sdmask`` has another shape; too few pixels hold sky; a parameter makes no sense; no pixel
            scale is known.
        """
        self._calls["sky_subtraction"] = told(locals())
        self._require_plane("sky_subtraction")
        check_not_negative(nsigma=nsigma, addgrow=addgrow)
        data, bad = self.data.data, self._bad()

        def fit(image, mask):
            if usemedian:
                return fit_median_sky(image, mask)
            return fit_polynomial_sky(image, mask, order) if polyfit else fit_mean_sky(image, mask)

        if sdmask is not None:
            masked = keep_mask(as_mask(sdmask, data, "sdmask") | bad)
            model = fit(data, masked)
        else:
            fwhm = self._fwhm_pixels(psfFWHM)
            try:
                model, masked = fit_sky_between_sources(
                    data, bad, fit=fit, fwhm=fwhm, n_sigma=nsigma, n_pixels=npixels, max_grow_size=max_grow_size,
                    addgrow=addgrow,
                )  # fmt: skip
            except NoGoodPixelsError as error:
                raise type(error)(
                    f"{error}\n    Where there are good pixels, the sources found with a psfFWHM of {fwhm:.3g} px, "
                    f"nsigma={nsigma}, max_grow_size={max_grow_size} and addgrow={addgrow} leave no sky between them."
                ) from None
        share = 100 * (1 - float(masked.mean()))
        self._tell("%s fitted to %.1f %% of the pixels, rms %.6g", type(model).__name__, share, model.rms)

        self.sky_model, self.source_mask = model, masked
        self.sky = model.evaluate(data.shape, data.chunks)
        self.data.data = subtract_sky(data, model)
        self.data.header = record_sky(self.data.header, model)
        if filepath is not None:
            how = "given mask" if sdmask is not None else (
                f"sources masked: psfFWHM={psfFWHM} arcsec nsigma={nsigma} npixels={npixels} "
                f"max_grow_size={max_grow_size} addgrow={addgrow}"
            )
            history = [f"galprep-dask sky subtraction, {how}"]
            image = self.to_dataset()
            image = with_header(image, self._recorded(image_header(image), "sky_subtraction"))
            write_image(image, filepath, overwrite=True, history=history)
        return masked

    # Step 2 -----------------------------------------------------------------------------------------------

    def img_cut(
        self,
        ra: float,
        dec: float,
        cutsize: Any,
        cutposition: list[int] | None = None,
        IFS: bool = False,
        usemaxpix: bool = False,
        sigma_clipped: bool = True,
        referpix: tuple[float, float] | None = None,
        zoomsize: int = 100,
        spcorrection: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[np.ndarray, list[int]]:
        """
        Cut a rectangle around a target.

        Parameters
        ----------
        ra, dec : float
            Position of the target in degrees.
        cutsize : float, Quantity, or list of four
            Half the side in arcsec, or ``[x-, x+, y-, y+]``: how far to go from the target to each side, in arcsec.
        cutposition : [x0, x1, y0, y1], optional
            Pixels to cut, in place of ``cutsize``.
        IFS : bool
            The image is a cube, spectral axis first, and is cut along the last two axes.
        usemaxpix : bool
            Centre on the brightest good pixel within ``zoomsize`` px of the position.
        sigma_clipped : bool
            Whether ``sky_median`` is the clipped or the plain median of the cutout.
        referpix : (x, y), optional
            Pixel position of the target, in place of the one that (ra, dec) have.
        zoomsize : int
            See ``usemaxpix``.
        spcorrection : (dx, dy)
            Added to the position, in pixels.

        Returns
        -------
        cutout : (ny, nx) NumPy array
            For a cube (n, ny, nx). Not padded: at an edge of the image it is smaller, with a warning.
        [x0, x1, y0, y1] : list of int
            For ``array[y0:y1, x0:x1]`` of full-frame arrays.

        Raises
        ------
        TargetOutsideError, ParameterError, MissingWCSError, NoGoodPixelsError
            The target is not in the image; a parameter makes no sense; nothing tells where (ra, dec) are;
            no pixel of the cutout is good.
        """
        self._calls["img_cut"] = told(locals())
        data = self.data.data
        if (data.ndim == 3) != IFS:
            what = "a cube" if data.ndim == 3 else "an image"
            raise ParameterError(f"IFS={IFS}, but {describe(self._image)} is {what} of shape {data.shape}.")
        height, width = data.shape[-2:]
        x, y = self._target_pixel(ra, dec, referpix, spcorrection)
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            where = f"ra={ra}, dec={dec}" if referpix is None else f"referpix={referpix}"
            raise TargetOutsideError(
                f"{where} is at pixel x={x:.1f}, y={y:.1f}, outside {describe(self._image)}, which has "
                f"{width} x {height} pixels."
            )
        if usemaxpix:
            check_positive("zoomsize", zoomsize, "pixels")
            x, y = brightest_pixel_near(data, self._bad(), x, y, zoomsize)
        if cutposition is not None:
            x0, x1, y0, y1 = whole_box(cutposition)
        else:
            x0, x1, y0, y1 = box_around(x, y, half_sizes(cutsize, self._scale()))
        box = [max(x0, 0), min(x1, width), max(y0, 0), min(y1, height)]
        if box[0] >= box[1] or box[2] >= box[3]:
            raise TargetOutsideError(
                f"pixels [{x0}, {x1}, {y0}, {y1}] lie outside {describe(self._image)}, which has {width} x {height}."
            )
        if box != [x0, x1, y0, y1]:
            warnings.warn(
                f"the cutout [{x0}, {x1}, {y0}, {y1}] crosses the edge of {describe(self._image)}, and is cut off "
                f"to {box}.",
                EdgeWarning, stacklevel=2,
            )  # fmt: skip

        part = (slice(box[2], box[3]), slice(box[0], box[1]))
        pixels = data[(..., *part)]
        lazy = {"image": pixels, "bad": bad_pixels(pixels, None if self.data.mask is None else self._bad()[part])}
        if self.sigma_image is not None:
            lazy["sigma"] = self.sigma_image[part]
        done = dict(zip(lazy, da.compute(*lazy.values()), strict=True))
        flat = done["image"].reshape(-1, done["image"].shape[-1])
        flat_bad = done["bad"].reshape(flat.shape)
        _, self.sky_median, _ = sigma_clipped_stats(flat, flat_bad, maxiters=5 if sigma_clipped else 0)
        self.cut_image = done["image"]
        self.cut_mask_image = done["bad"].all(axis=0) if IFS else done["bad"]
        self.cut_sigma_image = done.get("sigma")
        self.model_image = None
        self.cut_position = box
        self.coordinates_transfer_para = self._transfer_para(x - box[0], y - box[2])
        return self.cut_image, list(box)

    def cal_sigma_image(self, expo: Any, gain: float = 1.0, fac1: float = 1.0, fac2: float = 1.0) -> da.Array:
        """
        Sigma image of the full frame, lazily; see :func:`galprep_dask.noise.sigma_image`.

        Parameters
        ----------
        expo : float or (ny, nx) array
            Exposure in s for an image in counts per second, 1 for one in counts. With a map the noise of the sky
            varies as one over its square root, and pixels where it is not finite and positive are masked.
        gain : float
            Electrons per count.
        fac1, fac2 : float
            Factors of the variances of the sources and of the sky.

        Returns
        -------
        (ny, nx) dask array
            Slice it like the image. The noise of the sky is the clipped standard deviation of the
            pixels that are neither bad nor masked as sources by :meth:`sky_subtraction`.

        Raises
        ------
        ParameterError, ImageShapeError, NoGoodPixelsError
            A parameter is not positive; the map has another shape; no pixel is good.

        Warns
        -----
        SigmaWarning
            Those pixels scatter by less than 0.8 or more than 1.25 times what sigma says, ``fac2`` apart.
        """
        self._calls["cal_sigma_image"] = told(locals())
        self._require_plane("cal_sigma_image")
        data, how = self.data.data, {"gain": gain, "fac1": fac1, "fac2": fac2}
        # Clipping at 3 keeps unmasked sources out; where sources are masked it need only take out what is wild.
        masked, clip = (self._bad(), 3.0) if self.source_mask is None else (self.source_mask, 5.0)
        if np.ndim(expo):
            check_same_shape(expo, data.shape, "exptime")
            unusable = as_mask(unusable_pixels(exptime=expo), data)
            self.data.mask, masked = self._bad() | unusable, masked | unusable
            how["sky_exptime"] = sky_exposure(expo, masked)
        sky_std = measure_sky_std(data, masked, sigma_clip=clip)
        self.sigma_image = sigma_image(data, self._bad(), sky_std=sky_std, exptime=expo, **how)
        self.sigma_check = check_sigma(data, self.sigma_image, masked, sigma_clip=clip, expected=fac2**-0.5)
        exposure = "from a map" if np.ndim(expo) else expo
        self._tell(
            "sigma image: sky noise %.6g, gain %g, exposure %s; %s", sky_std, gain, exposure, self.sigma_check
        )
        return self.sigma_image

    def generate_cutmask(
        self,
        psfFWHM: float | None,
        data: Any = None,
        sdmask: Any = None,
        nsigma: float = 3.0,
        magnification: float = 3.0,
        npixels: int = 5,
        nlevels: int = 32,
        contrast: float = 0.001,
        deblend: bool = False,
        sky_level: float | None = None,
        source_dia: float = 0.5,
        max_grow_size: int = 100,
        growmethod: bool = True,
        nearbygrow: float = 0,
        addgrow: float = 0,
        left_source: bool = True,
    ) -> np.ndarray:
        """
        Mask everything in the cutout that is not the target; see :func:`galprep_dask.masks.target_mask`.

        Parameters
        ----------
        psfFWHM : float
            Width in arcsec of the Gaussian that the cutout is smoothed with for detection.
        data : (ny, nx) array, optional
            The cutout; by default that of :meth:`img_cut`. In one of another shape the target is in the middle.
        sdmask : (ny, nx) bool array, optional
            Pixels masked in any case: of the cutout's shape, or of the full frame's.
        nsigma, npixels : float, int
            Threshold and smallest size of a source.
        magnification : float
            Size of the ellipses that ``growmethod=False`` draws.
        nlevels, contrast, deblend : int, float, bool
            Whether and how overlapping sources are split.
        sky_level : float, optional
            Where growth stops; by default at the clipped median.
        source_dia : float
            The target is every segment that touches a circle of this diameter in arcsec.
        max_grow_size : int
            Growth at most, in pixels.
        growmethod : bool
            Grow the segments, or draw ellipses.
        nearbygrow : float
            Further pixels for neighbours whose mask touches the target's segment.
        addgrow : float
            Further pixels for all.
        left_source : bool
            False masks the target, too.

        Returns
        -------
        (ny, nx) bool NumPy array
            True = not to be fitted; bad pixels are in it.

        Raises
        ------
        ParameterError, ImageShapeError, NoGoodPixelsError
            There is no cutout yet, or a parameter makes no sense; shapes differ; no pixel is good.
        """
        self._calls["generate_cutmask"] = told(locals())
        check_not_negative(nsigma=nsigma)
        data = np.asarray(self._cutout_or_error("generate_cutmask") if data is None else data)
        if data.ndim != 2:
            raise ImageShapeError(f"data has shape {data.shape}; expected a two-dimensional cutout.")
        para, bad, x, y = self.coordinates_transfer_para, None, (data.shape[1] - 1) / 2, (data.shape[0] - 1) / 2
        if self.cut_image is not None and data.shape == self.cut_image.shape[-2:]:
            x, y = para["x0"], para["y0"]
            bad = self._bad()[self._part()]
        return target_mask(
            data, x, y, fwhm=self._fwhm_pixels(psfFWHM), mask=bad, n_sigma=nsigma, n_pixels=npixels,
            deblend=deblend, n_levels=nlevels, contrast=contrast, source_diameter=source_dia / self._scale(),
            sky_level=sky_level, shape="growth" if growmethod else "ellipses", max_grow_size=max_grow_size,
            magnification=magnification, addgrow=addgrow, nearby_grow=nearbygrow, keep_target=left_source,
            always=self._of_cutout(sdmask, data.shape, "sdmask"),
        )  # fmt: skip

    # Step 3 -----------------------------------------------------------------------------------------------

    def write_imcut(
        self,
        ra: float,
        dec: float,
        outputname: str | os.PathLike,
        header: fits.Header | None = None,
        addpixsc: bool = False,
        addmodel: bool = False,
    ) -> None:
        """
        Write the cutout with its mask and sigma image; see :func:`galprep_dask.cutouts.write_product`.

        Parameters
        ----------
        ra, dec : float
            Position of the target in degrees, for the header.
        outputname : path
            The file; one that is there is replaced.
        header : Header, optional
            Header of the full image, by default the image's own. Its WCS is moved to the cutout, and the sky that was
            subtracted is written down in it.
        addpixsc : bool
            Write the pixel scale in arcsec as PIXSCALE.
        addmodel : bool
            Append ``model_image``.

        Raises
        ------
        ParameterError
            There is no cutout, no sigma image, or no model where one is to be appended; (ra, dec) is no position.
        TargetOutsideError, MissingWCSError
            By its WCS the target is not in the cutout; ``header`` has no WCS, but the image has.
        ImageShapeError, OutputError
            The shapes of cutout, mask, sigma and model differ; the file cannot be written.
        """
        ra, dec = position_in_degrees(ra, dec)
        pixels = self._cutout_or_error("write_imcut")
        if self.cut_sigma_image is None:
            raise ParameterError("there is no sigma image of the cutout: call cal_sigma_image, set cut_sigma_image.")
        if addmodel and self.model_image is None:
            raise ParameterError("addmodel=True, but model_image is None. Set it to a model of the cutout.")
        x0, x1, y0, y1 = self.cut_position
        header = cut_header(self.data.header if header is None else header, x0, y0, x1 - x0, y1 - y0)
        self._check_target_inside(ra, dec, header)
        if self.sky_model is not None:
            header = record_sky(header, self.sky_model)  # the header passed in may be the original's
        attrs = self._image.attrs
        keywords = [
            ("BUNIT", attrs.get("unit"), "unit of the pixels"),
            ("GAIN", attrs.get("gain"), "[e-/count] gain"),
            ("EXPTIME", attrs.get("exptime"), "[s] exposure time"),
            ("MAGZERO", self.zero_point, "[mag] photometric zero point"),
            ("PHYS2IM", self.phys_to_image, "image units per physical unit of flux"),
            ("PIXSCALE", self._scale() if addpixsc else None, "[arcsec] side of a pixel"),
            *self._sigma_keywords(),
        ]
        write_product(
            outputname, pixels, mask=self.cut_mask_image, sigma=self.cut_sigma_image,
            model=self.model_image if addmodel else None, header=header, ra=ra, dec=dec, keywords=keywords,
            parameters=self._calls, source=(attrs.get("path"), attrs.get("hdu")), overwrite=True,
        )  # fmt: skip

    def _sigma_keywords(self) -> list[tuple]:
        """SIGCHK and its kin: of the full frame where the cutout's sigma is a part of it, else of the cutout."""
        pixels, sigma = self.cut_image, np.asarray(self.cut_sigma_image)
        if not sigma.shape == np.shape(self.cut_mask_image) == pixels.shape:
            return []  # refused when it is to be written
        check = self.sigma_check
        if check is None or not np.array_equal(sigma, np.asarray(self.sigma_image[self._part()])):
            masked, clip = self.cut_mask_image, 3.0
            if self.source_mask is not None:
                masked, clip = np.asarray(self.source_mask[self._part()]) | masked, 5.0
            try:
                check = check_sigma(pixels, sigma, masked, sigma_clip=clip)
            except NoGoodPixelsError:
                self._tell("SIGCHK is not written: the cutout has no source-free pixel")
                return []
        return [(card.keyword, card.value, card.comment) for card in check.to_header().cards]

    # PSF --------------------------------------------------------------------------------------------------

    def generate_PSFs(
        self,
        psfFWHM: float | None,
        data: Any = None,
        nsigma: float = 3.0,
        npixels: int = 5,
        sigmaimg: Any = None,
        crossmatch: bool | str = "auto",
        starcord_list: Any = None,
        fluxthreshould: float = 0.0,
        qt: float = 0.5,
        sigfwhm: float = 3.0,
        medianfwhm: float | None = None,
        size: int = 51,
        isolate: float = 0.3,
        central_tol: int = 2,
        droppsf: Any = (),
        plot: bool = False,
        figurepath: str | os.PathLike = ".",
        notfit: bool = False,
        photutils_method: bool = False,
        oversampling: int | str = "auto",
        a_TV: float = 0.0,
        a_sky: float = 0.0,
        learning_rate: float = 2e-5,
        num_steps: int | None = None,
        makestackpsf: bool = False,
        filepaths: str | os.PathLike | None = None,
        verbose: bool = True,
        *,
        gaia_catalog: Any = None,
        solver: str = "newton",
    ) -> np.ndarray | None:
        """
        Choose the stars of the image and fit the PSF to them.

        Parameters
        ----------
        psfFWHM : float
            Width in arcsec of the Gaussian that the image is smoothed with for detection; Gaia is matched within 1.5
            times it.
        data : (ny, nx) array, optional
            The image; by default that of the class. Its clipped median is taken off.
        nsigma, npixels : float, int
            Threshold and smallest size of a source.
        sigmaimg : (ny, nx) array, optional
            From :meth:`cal_sigma_image`; by default the noise is that of the sky.
        crossmatch : bool or "auto"
            Whether stars have to be in Gaia. True asks the archive, or ``gaia_catalog``; "auto" does without it, with a
            warning, where it cannot be had.
        starcord_list : list of [ra, dec], optional
            Positions in degrees of sources that replace the raw catalogue.
        fluxthreshould : float
            Least flux, as a fraction of the mean flux.
        qt : float
            Least axis ratio.
        sigfwhm, medianfwhm : float
            Accepted range of FWHM: the middle in pixels (by default the stellar locus is found) and the half-width in
            robust standard deviations.
        size : int
            Side of PSF and boxes in pixels, odd.
        isolate, central_tol : float, int
            Largest share of the box that others own, and most bad pixels near its centre.
        droppsf : list of int
            Stars to leave out, as numbered in the figure of the stars.
        plot, figurepath : bool, path
            Whether to write figures, and the folder for them.
        notfit : bool
            Stop after the selection.
        photutils_method, makestackpsf : bool
            Build the PSF with photutils' EPSFBuilder, or stack the stars, in place of the fit.
        oversampling : int or "auto"
            Samples of the model per pixel.
        a_TV, a_sky : float
            Penalties of total variation and of local skies.
        learning_rate, num_steps : float, int
            Of the solver: steps of Adam, and rounds at most of Newton's method.
        filepaths : path, optional
            File for the PSF, the table of the stars and the uncertainty; one that is there is replaced.
        verbose : bool
            Whether to log what was found.
        gaia_catalog : path or Table, optional
            Gaia's sources, in place of a query.
        solver : {"newton", "adam", "lbfgs"}
            See :func:`galprep_dask.psf.fit_psf`.

        Returns
        -------
        (size, size) float64 array, or None
            The PSF at the sampling of the image, of sum 1; None with ``notfit``. The table of all sources stays at
            ``stars``, the model at ``psf_model``.

        Raises
        ------
        ParameterError, ImageShapeError, NoStarsError, TooFewStarsError, GaiaUnavailableError, OutputError
            A parameter makes no sense; shapes differ; no star is left, with the cut that took the last; the fit needs
            more; there is neither network nor table; a file cannot be written.
        """
        self._calls["generate_PSFs"] = told(locals())
        if self.data.data.ndim != 2 and data is None:
            self._require_plane("generate_PSFs")
        check_choices(photutils_method, makestackpsf, crossmatch)
        folder = figure_folder(figurepath) if plot else None
        if filepaths is not None:
            check_output(filepaths, overwrite=True)
        pixels = self.data.data if data is None else as_image(data)
        bad = self._bad() if pixels.shape == self.data.data.shape[-2:] else bad_pixels(pixels, None)
        if sigmaimg is not None:
            check_same_shape(sigmaimg, pixels.shape, "sigmaimg")
        say = self._tell if verbose else (lambda *args: None)
        stars, found, sky_std = choose_stars(
            self._image, pixels, bad, self.data.header, fwhm=self._fwhm_pixels(psfFWHM), nsigma=nsigma,
            npixels=npixels, sigmaimg=sigmaimg, crossmatch=crossmatch, gaia_catalog=gaia_catalog,
            starcord_list=starcord_list, fluxthreshould=fluxthreshould, qt=qt, sigfwhm=sigfwhm, medianfwhm=medianfwhm,
            size=size, isolate=isolate, central_tol=central_tol, droppsf=droppsf,
        )  # fmt: skip
        self.stars, self.psf_model, residuals = stars, None, None
        say("stars: %s", ", ".join(f"{name} {count}" for name, count in stars.meta["counts"].items()))
        if not notfit:
            self.psf_model, residuals = fit_to_stars(
                pixels, bad, stars, found, sky_std, sigmaimg=sigmaimg, gain=self._electrons(sigmaimg), size=size,
                photutils_method=photutils_method, makestackpsf=makestackpsf, oversampling=oversampling, a_TV=a_TV,
                a_sky=a_sky, learning_rate=learning_rate, num_steps=num_steps, solver=solver,
            )  # fmt: skip
            say("%r", self.psf_model)
            if filepaths is not None:
                header = self._recorded(fits.Header(), "sky_subtraction", "generate_PSFs")
                self.psf_model.to_fits(filepaths, overwrite=True, header=header)
        if folder is not None:
            name = Path(str(self._image.attrs.get("path") or "image")).name.split(".")[0]
            draw_figures(folder, name, pixels, stars, self.psf_model, residuals)
        return None if self.psf_model is None else self.psf_model.image

    def _recorded(self, header: fits.Header, *steps: str) -> fits.Header:
        """Give a header that says which file and which calls of these steps a product was made of."""
        attrs, calls = self._image.attrs, {step: self._calls[step] for step in steps if step in self._calls}
        return record_provenance(header, (attrs.get("path"), attrs.get("hdu")), calls)

    def _electrons(self, sigmaimg) -> float | None:
        """Electrons per unit of the image, where the sigma image was made with numbers for gain and exposure."""
        call = self._calls.get("cal_sigma_image")
        if sigmaimg is None or call is None or not isinstance(call["expo"], int | float):
            return None
        return float(call["expo"]) * float(call["gain"])

    # Translation ------------------------------------------------------------------------------------------

    def _tell(self, message: str, *args) -> None:
        if self.verbose:
            _log.info("%s: " + message, describe(self._image), *args)

    def _require_plane(self, method: str) -> None:
        if self.data.data.ndim != 2:
            raise ParameterError(f"{method} works on images; {describe(self._image)} is a cube.")

    def _cutout_or_error(self, method: str) -> np.ndarray:
        if self.cut_image is None:
            raise ParameterError(f"there is no cutout yet: call img_cut before {method}.")
        return self.cut_image

    def _bad(self) -> da.Array:
        """Bad pixels of the full frame: the mask as it is now, and what is not finite."""
        data = self.data.data
        plane = data if data.ndim == 2 else data[0]
        return bad_pixels(plane, as_mask(self.data.mask, plane))

    def _part(self) -> tuple[slice, slice]:
        x0, x1, y0, y1 = self.cut_position
        return slice(y0, y1), slice(x0, x1)

    def _of_cutout(self, mask: Any, shape: tuple[int, int], name: str):
        """Take a mask of the cutout as it is, and cut one of the full frame."""
        if mask is not None and np.shape(mask) != shape and np.shape(mask) == self.data.data.shape[-2:]:
            mask = mask[self._part()]
        if mask is not None:
            check_same_shape(mask, shape, name, owner="the cutout")
        return mask

    def _scale(self) -> float:
        """Arcsec per pixel."""
        if self.pixel_scales is not None:
            return float(self.pixel_scales)
        try:
            return pixel_scale(self.data.header, where=describe(self._image))
        except MissingWCSError as error:
            raise MissingWCSError(f"{error} Or pass pixel_scales= in arcsec.") from None

    def _fwhm_pixels(self, fwhm: float | None) -> float:
        fwhm = self.psfFWHM_map if fwhm is None else fwhm
        check_positive("psfFWHM", fwhm, "arcsec")
        return float(fwhm) / self._scale()

    def _target_pixel(self, ra, dec, referpix, spcorrection) -> tuple[float, float]:
        dx, dy = pixel_pair("spcorrection", spcorrection)
        if referpix is not None:
            x, y = pixel_pair("referpix", referpix)
        else:
            try:
                x, y = sky_to_pixel(self.data.header, ra, dec, where=describe(self._image))
            except MissingWCSError as error:
                raise MissingWCSError(f"{error} Here that is referpix=(x, y).") from None
        return x + dx, y + dy

    def _transfer_para(self, x: float, y: float) -> dict[str, Any]:
        """Where the target is in the cutout, and how arcsec to the east and north become pixels there."""
        para = {"x0": float(x), "y0": float(y), "x0shift": 0.0, "y0shift": 0.0}
        wcs = self._wcs_or_none(self.data.header)
        axes = None if wcs is None else sky_axes(wcs, x + self.cut_position[0], y + self.cut_position[2])
        matrix = sky_matrix(axes, self.pixel_scales, self.wcs_rotation)
        return para if matrix is None else para | {"matrix": matrix}

    def _check_target_inside(self, ra: float, dec: float, header: fits.Header) -> None:
        """Raise unless the cutout's header puts the target into it: a fit would look for it in vain."""
        if self._wcs_or_none(self.data.header) is None:
            return
        try:
            x, y = sky_to_pixel(header, ra, dec, where="the cutout")
        except MissingWCSError:
            raise MissingWCSError(
                f"header= has no celestial WCS, but {describe(self._image)} has. Pass the header of the HDU that holds "
                "the image, or None."
            ) from None
        x0, x1, y0, y1 = self.cut_position
        if not (-0.5 <= x < x1 - x0 - 0.5 and -0.5 <= y < y1 - y0 - 0.5):
            raise TargetOutsideError(
                f"ra={ra}, dec={dec} is at pixel x={x:.1f}, y={y:.1f} of the cutout, which has {x1 - x0} x {y1 - y0} "
                "pixels. Are they the coordinates that img_cut was given, and is header= that of the full image?"
            )
