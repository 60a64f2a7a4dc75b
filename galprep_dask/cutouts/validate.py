"""Can a fit use these files? Checks of cutouts, masks, sigma images and PSFs, ours or not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from galprep_dask.cutouts.findings import Finding
from galprep_dask.cutouts.image_checks import check_header, check_pixels, check_sky
from galprep_dask.cutouts.mask_checks import check_mask, check_sigma_pixels
from galprep_dask.cutouts.planes import ORDER, Plane, read_planes
from galprep_dask.cutouts.psf_checks import check_psf, psf_fwhm
from galprep_dask.errors import GalprepError, ParameterError

__all__ = ["validate_files"]

PathLike = str | os.PathLike


def validate_files(
    paths: Iterable[PathLike] | PathLike = (),
    *,
    image: PathLike | None = None,
    mask: PathLike | None = None,
    sigma: PathLike | None = None,
    psf: PathLike | None = None,
) -> list[Finding]:
    """
    Check cutouts and PSFs against what GalfitS and GALFIT need.

    Parameters
    ----------
    paths : path or iterable of path
        FITS files: cutouts with their planes in HDUs, PSFs, and images with mask and sigma in files of their own. What
        an HDU is follows from its EXTNAME, else from the name of the file, its pixels, and the order image, mask,
        sigma, PSF, model. Masks and sigma images in files of their own go with the images of their shape.
    image, mask, sigma, psf : path, optional
        Files whose first image is this, whatever they are called.

    Returns
    -------
    list of Finding
        File by file. One with ``check="file"`` and level "error" stands for a file that could not be read.

    Raises
    ------
    ParameterError
        No file is named.

    Examples
    --------
    >>> import tempfile
    >>> from galprep_dask.cutouts import write_product
    >>> folder = tempfile.TemporaryDirectory()
    >>> pixels = np.random.default_rng(0).normal(0, 1, (64, 64))
    >>> path = write_product(folder.name + "/cut.fits", pixels, sigma=np.full((64, 64), 3.0))
    >>> for finding in validate_files(path):
    ...     if finding.level in ("error", "warning"):
    ...         print(finding.level, "-", finding.check)
    error - wcs
    error - noise
    >>> folder.cleanup()
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    given = [(path, None) for path in paths]
    roles = {"image": image, "mask": mask, "sigma": sigma, "psf": psf}
    given += [(path, role) for role, path in roles.items() if path is not None]
    if not given:
        raise ParameterError("no file to check: name one or more FITS files.")

    findings, files = [], []
    for path, role in given:
        try:
            files.append(read_planes(path, role))
        except GalprepError as error:
            findings.append(Finding("error", "file", str(error), "", file=os.fspath(path)))
    alone = [planes[0] for planes in files if len(planes) == 1]
    for planes in files:
        findings += _check_file(planes, alone, any(plane.role == "psf" for group in files for plane in group))
    return findings


def _check_file(planes: list[Plane], alone: list[Plane], has_psf: bool) -> list[Finding]:
    """Check the planes of one file, an image with those of its shape among the files of a single plane."""
    cutout = next((plane for plane in planes if plane.role == "image"), None)
    found = []
    for plane in planes:
        if plane.pixels.ndim != 2:
            advice = "Name the file of one channel: a fit takes two-dimensional images."
            found.append(Finding("error", "shape", f"{plane.pixels.shape}, a cube", advice, file=plane.place))
    if cutout is not None and cutout.pixels.ndim == 2:
        found += _check_cutout(cutout, planes, alone, has_psf)
    elif cutout is None:
        found += _check_unattached(planes, [p for p in alone if p.role == "image"])
    for plane in planes:
        if plane.role == "psf" and plane.pixels.ndim == 2:
            found += [replace(finding, file=plane.place) for finding in check_psf(plane.pixels)]
            if np.isfinite(plane.pixels).all() and plane.pixels.max() > 0:
                width = psf_fwhm(plane.pixels)
                found.append(Finding("ok", "psf width", f"FWHM {width:.2f} px", "", width, plane.place))
        elif plane.role not in ORDER:
            what = plane.role or "no name that is known"
            found.append(Finding("note", "role", f"{what}: not checked", file=plane.place))
    return found


def _check_cutout(cutout: Plane, planes: list[Plane], alone: list[Plane], has_psf: bool) -> list[Finding]:
    def of(role: str) -> Plane | None:
        within = [plane for plane in planes if plane.role == role]
        beside = [p for p in alone if p.role == role and (p.pixels.shape == cutout.pixels.shape)]
        return next(iter(within + (beside if len(planes) == 1 else [])), None)

    shape = cutout.pixels.shape
    found = [Finding("ok", "shape", f"{shape[1]} x {shape[0]} px", file=cutout.place)]
    mask, sigma = of("mask"), of("sigma")
    for role, plane in (("mask", mask), ("sigma", sigma)):
        if plane is not None and plane.pixels.shape != shape:
            message = f"the {role} has {_size(plane)}, the image {_size(cutout)}"
            found.append(Finding("error", "shape", message, f"Cut the {role} as the image.", file=plane.place))
    mask = mask if mask is not None and mask.pixels.shape == shape else None
    sigma = sigma if sigma is not None and sigma.pixels.shape == shape else None
    bad = None if mask is None else (mask.pixels != 0) | ~np.isfinite(mask.pixels)

    found += _at(cutout, check_pixels(cutout.pixels, bad))
    found += _at(cutout, check_header(cutout.header, shape, has_sigma=sigma is not None))
    if mask is None:
        advice = "Write a mask, 1 = not to be fitted; without one neighbours are fitted with the target."
        found.append(Finding("warning", "mask", "there is none", advice, file=cutout.place))
    else:
        found += _at(mask, check_mask(mask.pixels, cutout.pixels))
    if sigma is None:
        weight = of("weight")
        if weight is None:
            advice = "Write one. GALFIT makes its own from GAIN, EXPTIME and NCOMBINE; GalfitS does not."
            found.append(Finding("warning", "sigma", "there is none", advice, file=cutout.place))
        else:
            message = "a weight image takes the place of sigma"
            advice = "Write 1 / sqrt(weight), and mask where the weight is zero."
            found.append(Finding("error", "sigma", message, advice, file=weight.place))
    else:
        found += _at(sigma, check_sigma_pixels(sigma.pixels, bad))
    found += _at(sigma or cutout, check_sky(cutout.pixels, None if sigma is None else sigma.pixels, bad))
    psf = of("psf")
    if psf is None and not has_psf:
        advice = "Append one, or name its file with this one."
        found.append(Finding("note", "psf", "there is none", advice, file=cutout.place))
    elif psf is not None and any(np.subtract(psf.pixels.shape, shape) > 0) and psf.pixels.ndim == 2:
        advice = "Cut a larger image, or a smaller PSF: some codes refuse this."
        found.append(Finding("note", "psf", f"larger ({_size(psf)}) than the image", advice, file=psf.place))
    return found


def _check_unattached(planes: list[Plane], images: list[Plane]) -> list[Finding]:
    """Check masks and sigma images that come without their image, or with images of other shapes."""
    found = []
    for plane in planes:
        shapes = [image.pixels.shape for image in images]
        if plane.role not in ("mask", "sigma") or plane.pixels.ndim != 2 or plane.pixels.shape in shapes:
            continue  # checked with its image
        if shapes:
            sizes = ", ".join(sorted({_size(image) for image in images}))
            message = f"the {plane.role} has {_size(plane)}, and no image named has; they have {sizes}"
            found.append(Finding("error", "shape", message, f"Cut the {plane.role} as the image.", file=plane.place))
        check = check_mask if plane.role == "mask" else check_sigma_pixels
        found += _at(plane, check(plane.pixels, None))
    return found


def _size(plane: Plane) -> str:
    return " x ".join(str(n) for n in reversed(plane.pixels.shape)) + " px"


def _at(plane: Plane, findings: list[Finding]) -> list[Finding]:
    return [replace(finding, file=plane.place) for finding in findings]
