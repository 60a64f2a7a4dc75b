"""Is a mask one, and which value marks bad pixels? Is a sigma image one that can be divided by?"""

from __future__ import annotations

import numpy as np

from galprep_dask.cutouts.findings import Finding

__all__ = ["check_mask", "check_sigma_pixels"]


def check_mask(mask: np.ndarray, image: np.ndarray | None) -> list[Finding]:
    """
    Check the values of a mask, and that non-zero marks the bad pixels.

    Parameters
    ----------
    mask : (ny, nx) array
        The mask.
    image : (ny, nx) array or None
        The image that it belongs to.

    Returns
    -------
    list of Finding
    """
    if not np.isfinite(mask).all():
        return [Finding("error", "mask values", "some are not finite", "Write 0 for good pixels and 1 for bad ones.")]
    found = []
    values = np.unique(mask)
    if np.isin(values, (0, 1)).all():
        found.append(Finding("ok", "mask values", "0 and 1" if len(values) == 2 else f"{values[0]:g} alone"))
    else:
        some = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        found.append(Finding(
            "warning", "mask values", f"{some}: not 0 and 1",
            "Write 1 for every bad pixel. Is it a segmentation, a map of flags, or another plane?",
        ))  # fmt: skip
    bad = mask != 0
    share = float(bad.mean())
    ny, nx = mask.shape
    middle = bad[(ny - 1) // 2 : ny // 2 + 1, (nx - 1) // 2 : nx // 2 + 1].all()
    if bad.all():
        advice = "Write 1 for bad pixels, 0 for those to be fitted."
        found.append(Finding("error", "mask polarity", "every pixel is masked", advice, share))
    elif share > 0.5 and middle and _bright_is_masked(bad, image):
        message = f"{share:.1%} are not zero, the middle is among them: 1 seems to mark good pixels"
        advice = "Write 1 - mask: GalfitS and GALFIT leave out 1."
        found.append(Finding("error", "mask polarity", message, advice, share))
    elif middle:
        message = f"1 = bad: {share:.1%} masked, the middle too"
        advice = "Is the target masked? A fit would see nothing of it."
        found.append(Finding("warning", "mask polarity", message, advice, share))
    else:
        found.append(Finding("ok", "mask polarity", f"1 = bad: {share:.1%} masked, the middle is not", "", share))
    return found


def _bright_is_masked(bad: np.ndarray, image: np.ndarray | None) -> bool:
    """Tell whether the brightest pixels of the middle third, where a target is, are nearly all masked."""
    if image is None:
        return True
    ny, nx = image.shape
    part = np.s_[ny // 3 : ny - ny // 3, nx // 3 : nx - nx // 3]
    pixels = np.where(np.isfinite(image[part]), image[part], -np.inf)
    return bool(bad[part][pixels >= np.quantile(pixels, 0.9)].mean() > 0.9)


def check_sigma_pixels(sigma: np.ndarray, bad: np.ndarray | None) -> list[Finding]:
    """
    Check that every pixel of a sigma image is finite and positive.

    Parameters
    ----------
    sigma : (ny, nx) array
        The sigma image.
    bad : (ny, nx) bool array or None
        Masked pixels, where it matters less.

    Returns
    -------
    list of Finding
    """
    unusable = ~(np.isfinite(sigma) & (sigma > 0))
    if not unusable.any():
        span = f"from {sigma.min():.4g} to {sigma.max():.4g}, all finite and positive"
        return [Finding("ok", "sigma", span)]
    open_to_fit = int((unusable if bad is None else unusable & ~bad).sum())
    message = f"{int(unusable.sum())} pixels are not finite and positive, {open_to_fit} of them not masked"
    advice = "Mask them, and write any positive value there: a zero is an infinite weight."
    return [Finding("error" if open_to_fit else "warning", "sigma", message, advice, float(open_to_fit))]
