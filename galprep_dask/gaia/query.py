"""Gaia from the archive: the footprint in tiles, each a query that is asked once."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable

from astropy.io import fits
from astropy.table import QTable, vstack
from astropy.time import Time
from astropy.wcs import WCS

from galprep_dask.arrays import is_finite
from galprep_dask.errors import ParameterError
from galprep_dask.gaia.cache import cache_folder, keep, recall
from galprep_dask.gaia.columns import COLUMNS, normalise
from galprep_dask.gaia.epoch import julian_year, motion_deg
from galprep_dask.gaia.footprint import Box, Footprint, cells_of, make_footprint
from galprep_dask.gaia.observed import seen_in
from galprep_dask.gaia.table import without_repeats

__all__ = ["ARCHIVE", "query_footprint", "query_gaia"]

#: The TAP service of the Gaia archive.
ARCHIVE = "https://gea.esac.esa.int/tap-server/tap"

_TILE_SIZES = (0.25, 0.5, 1.0, 2.0)
_FEW_TILES = 16
# Tiles of this size and more are left to the server as jobs, and so are many of any size.
_LARGE = 0.5

_NOT_IN_DR2 = {
    "ruwe", "classprob_dsc_combmod_galaxy", "classprob_dsc_combmod_quasar", "in_galaxy_candidates", "in_qso_candidates"
}  # fmt: skip

_log = logging.getLogger("galprep_dask.gaia")


def query_gaia(
    wcs: WCS | fits.Header | str, shape: tuple[int, int], *, epoch: Time | float | str, margin_arcsec: float = 0.0,
    max_magnitude: float | None = None, url: str = ARCHIVE, table: str = "gaiadr3.gaia_source",
    columns: Iterable[str] | None = None, tile_size: float | None = None, asynchronous: bool | None = None,
    row_limit: int = 3_000_000, timeout: float = 60.0, max_wait: float = 900.0, retries: int = 4, backoff: float = 2.0,
    reach_within: float | None = None, cache: bool | str | os.PathLike = True,
) -> QTable:  # fmt: skip
    """
    Ask the Gaia archive for the sources in an image.

    Parameters
    ----------
    wcs : WCS, Header or str
        Where the image lies: an astropy WCS, or a FITS header.
    shape : (int, int)
        ``(ny, nx)``.
    epoch : Time, float or str
        When the image was taken, see :func:`image_epoch`.
    margin_arcsec : float
        How far outside the image a source still belongs to it.
    max_magnitude : float, optional
        The faintest G magnitude; sources without one are left out with it.
    url : str
        Of a TAP service that has the table.
    table : str
        ``gaiadr3.gaia_source``, or ``gaiadr2.gaia_source``.
    columns : iterable of str, optional
        What to ask for beside the coordinates. By default what this package uses and the release has.
    tile_size : float, optional
        Size in degrees of the tiles of the sky that are asked for one by one. By default 0.25 to 2, as the image is
        large.
    asynchronous : bool, optional
        Whether tiles are jobs of the server. By default where they are large or many.
    row_limit : int
        The most rows of a tile.
    timeout : float
        Seconds that the server may be silent.
    max_wait : float
        Seconds that a tile may take.
    retries : int
        How often to ask again when the server does not answer, or not with a catalogue.
    backoff : float
        Seconds to the first retry; every further pause is twice as long.
    reach_within : float, optional
        Seconds within which a connection to the archive has to come about; where none does, because there is no
        network, no such host or nobody there, nothing is tried again. By default that is retried as all else.
    cache : bool, str or path
        Where answers are kept, see :func:`cache_folder`.

    Returns
    -------
    QTable
        As of :func:`read_gaia_table`, and where each source was at the epoch as seen from the Earth: ``ra_obs``,
        ``dec_obs`` (deg) and ``x``, ``y`` (0-based pixels). Only sources in the image and its margin, in order of
        ``source_id``; those without a proper motion are kept.

    Raises
    ------
    GaiaUnavailableError
        The archive cannot be reached, or gives no catalogue.
    GaiaQueryError
        It refuses the query.
    GaiaRowLimitError
        A tile has more sources than the row limit: the answer is no catalogue.
    MissingWCSError, ParameterError
        There is no celestial WCS; a parameter makes no sense.

    Notes
    -----
    Tiles are cells of one grid for the whole sky, which do not overlap, so that bands, dithers and reruns of a field
    ask the same questions; the answers are kept on disk. The footprint is widened by the way that the fastest star
    goes between the epochs.

    Examples
    --------
    Where there is no archive, here because nobody listens at that address:

    >>> header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0})
    >>> header.update({"CDELT1": -1e-4, "CDELT2": 1e-4})
    >>> query_gaia(header, (100, 100), epoch="2017-11-13", url="http://127.0.0.1:9/tap", retries=0, cache=False)
    Traceback (most recent call last):
    ...
    galprep_dask.errors.GaiaUnavailableError: the Gaia archive at http://127.0.0.1:9/tap gave no catalogue...
    """
    epoch = julian_year(epoch)
    release = 2015.5 if "dr2" in table.lower() else 2016.0
    footprint = make_footprint(wcs, shape, margin_arcsec=margin_arcsec, motion_deg=motion_deg(epoch, release))
    stars = query_footprint(
        footprint, max_magnitude=max_magnitude, url=url, table=table, columns=columns, tile_size=tile_size,
        asynchronous=asynchronous, row_limit=row_limit, timeout=timeout, max_wait=max_wait, retries=retries,
        backoff=backoff, reach_within=reach_within, cache=cache,
    )  # fmt: skip
    return seen_in(stars, footprint, epoch)


def query_footprint(
    footprint: Footprint, *, max_magnitude: float | None, url: str, table: str, columns: Iterable[str] | None,
    tile_size: float | None, asynchronous: bool | None, row_limit: int, timeout: float, max_wait: float, retries: int,
    backoff: float, reach_within: float | None, cache: bool | str | os.PathLike,
) -> QTable:  # fmt: skip
    """Give the sources of all tiles that a footprint touches, as they are in the catalogue; see :func:`query_gaia`."""
    positive = {"timeout": timeout, "max_wait": max_wait, "row_limit": row_limit, "reach_within": reach_within}
    for name, value in positive.items():
        if not (value is None or (is_finite(value) and value > 0)):
            raise ParameterError(f"{name}={value!r}; expected a positive number.")
    for name, value in {"retries": retries, "backoff": backoff}.items():
        if not (is_finite(value) and value >= 0):
            raise ParameterError(f"{name}={value!r}; expected zero or a positive number.")
    if tile_size is not None and not 0.01 <= tile_size <= 10:
        raise ParameterError(f"tile_size={tile_size!r}; expected degrees, 0.01 to 10, or None.")
    if max_magnitude is not None and not math.isfinite(max_magnitude):
        raise ParameterError(f"max_magnitude={max_magnitude!r}; expected a magnitude, or None.")
    if not url.startswith(("http://", "https://")):
        raise ParameterError(f"url={url!r}; expected the address of a TAP service, http:// or https://.")

    size = tile_size or next((s for s in _TILE_SIZES if len(cells_of(footprint, s)) <= _FEW_TILES), _TILE_SIZES[-1])
    tiles = cells_of(footprint, size)
    if asynchronous is None:
        asynchronous = size >= _LARGE or len(tiles) > _FEW_TILES
    always = ["source_id", "ra", "dec", "ref_epoch"]
    columns = _columns_of(table) if columns is None else list(dict.fromkeys([*always, *columns]))
    folder = cache_folder(cache)
    answers = []
    for number, tile in enumerate(tiles, 1):
        query = _adql(tile, table, columns, max_magnitude, int(row_limit))
        answer = recall(folder, url, query)
        if answer is None:
            # Loaded here: whoever has a table, or has asked before, needs no client.
            from galprep_dask.gaia.tap import reach, run_query

            if reach_within is not None:
                reach(url, reach_within)
                reach_within = None
            _log.info("asking %s for tile %d of %d", url, number, len(tiles))
            answer = run_query(
                url, query, asynchronous=asynchronous, row_limit=int(row_limit), timeout=timeout, max_wait=max_wait,
                retries=int(retries), backoff=backoff,
            )  # fmt: skip
            answer = normalise(answer, where=f"the answer of {url}")
            keep(folder, url, query, answer)
        answers.append(answer)
    return without_repeats(vstack(answers, metadata_conflicts="silent"))


def _columns_of(table: str) -> list[str]:
    left_out = _NOT_IN_DR2 if "dr2" in table.lower() else set()
    return [column for column in COLUMNS if column not in left_out]


def _adql(tile: Box, table: str, columns: list[str], max_magnitude: float | None, row_limit: int) -> str:
    """Ask for one tile: the circle around it is what archives have an index for, the rest makes tiles disjoint."""
    ra, dec, radius = tile.cap()
    top = "<=" if tile.dec_max >= 90 else "<"
    conditions = [
        f"1 = CONTAINS(POINT('ICRS', ra, dec), CIRCLE('ICRS', {ra!r}, {dec!r}, {math.ceil(radius * 1.001e6) / 1e6!r}))",
        f"ra >= {tile.ra_min!r} AND ra < {tile.ra_max!r} AND dec >= {tile.dec_min!r} AND dec {top} {tile.dec_max!r}",
    ]
    if max_magnitude is not None:
        conditions.append(f"phot_g_mean_mag <= {float(max_magnitude)!r}")
    return f"SELECT TOP {row_limit} {', '.join(columns)} FROM {table} WHERE {' AND '.join(conditions)}"
