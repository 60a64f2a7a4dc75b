"""The columns of a Gaia table, under whichever names and units they come."""

from __future__ import annotations

import re

import numpy as np
from astropy import units as u
from astropy.table import Column, MaskedColumn, QTable, Table

from galprep_dask.errors import CatalogError, ParameterError

__all__ = ["ALIASES", "COLUMNS", "degrees", "find_columns", "normalise"]

_DEG, _MAS, _MAS_YR = u.deg, u.mas, u.mas / u.yr

#: Columns of a normalised table with their units: the archive's own names in lower case.
COLUMNS: dict[str, u.Unit | None] = {
    "source_id": None,
    "ra": _DEG,
    "dec": _DEG,
    "ref_epoch": u.yr,
    "pmra": _MAS_YR,
    "pmdec": _MAS_YR,
    "parallax": _MAS,
    "phot_g_mean_mag": u.mag,
    "ruwe": None,
    "astrometric_excess_noise": _MAS,
    "astrometric_excess_noise_sig": None,
    "classprob_dsc_combmod_galaxy": None,
    "classprob_dsc_combmod_quasar": None,
    "in_galaxy_candidates": None,
    "in_qso_candidates": None,
    "duplicated_source": None,
}

_FLAGS = ("in_galaxy_candidates", "in_qso_candidates", "duplicated_source")
_ALWAYS = ("ra", "dec", "ref_epoch", "pmra", "pmdec", "parallax", "phot_g_mean_mag")

#: Other names of these columns, in lower case: those of VizieR, of cross-matched tables and of older releases.
ALIASES: dict[str, tuple[str, ...]] = {
    "source_id": ("source", "gaia_source_id", "sourceid", "dr3_source_id", "gaiadr3_source_id"),
    "ra": ("ra_icrs", "gaia_ra", "alpha", "_ra_icrs", "_ra", "ra_deg", "radeg", "right_ascension"),
    "dec": ("de_icrs", "dec_icrs", "gaia_dec", "delta", "_de_icrs", "_de", "dec_deg", "dedeg", "de", "declination"),
    "ref_epoch": ("refepoch", "epoch", "ep", "gaia_ref_epoch"),
    "pmra": ("pm_ra", "gaia_pmra", "pmra_cosdec", "pm_ra_cosdec"),
    "pmdec": ("pmde", "pm_dec", "gaia_pmdec"),
    "parallax": ("plx", "gaia_parallax"),
    "phot_g_mean_mag": ("gmag", "g_mag", "gaia_g", "mag_g", "gaia_phot_g_mean_mag"),
    "ruwe": (),
    "astrometric_excess_noise": ("epsi",),
    "astrometric_excess_noise_sig": ("sepsi",),
    "classprob_dsc_combmod_galaxy": ("pgal",),
    "classprob_dsc_combmod_quasar": ("pqso",),
    "in_galaxy_candidates": ("gal",),
    "in_qso_candidates": ("qso",),
    "duplicated_source": ("dup",),
}

#: Positions that VizieR and others have moved to J2000.
_J2000 = {"ra": ("raj2000", "ra_j2000", "_raj2000"), "dec": ("dej2000", "decj2000", "dec_j2000", "_dej2000")}

_RELEASES = {"dr1": 2015.0, "dr2": 2015.5, "edr3": 2016.0, "dr3": 2016.0}


def find_columns(names, *, where: str, ra: str | None = None, dec: str | None = None) -> dict[str, str]:
    """
    Find out which column of a table is which.

    Parameters
    ----------
    names : iterable of str
        Names of the table's columns, upper or lower case.
    where : str
        What to call the table in an error.
    ra, dec : str, optional
        What the coordinates are called, where the table says so itself.

    Returns
    -------
    dict
        From the names of :data:`COLUMNS`, as far as there are such columns, to the table's own; and
        ``"designation"``, which tells the release.

    Raises
    ------
    CatalogError
        There are no coordinates.
    """
    names = list(names)
    known = {name.lower(): name for name in reversed(names)}
    found = {}
    for column in COLUMNS:
        for alias in (column, *ALIASES[column]):
            if alias in known:
                found[column] = known[alias]
                break
    if ra in names and dec in names:
        found["ra"], found["dec"] = ra, dec
    if not {"ra", "dec"} <= found.keys():
        for column, aliases in _J2000.items():
            own = [known[alias] for alias in aliases if alias in known]
            if own:
                found[column] = own[0]
    if not {"ra", "dec"} <= found.keys():
        lacking = " and no ".join(column for column in ("ra", "dec") if column not in found)
        raise CatalogError(
            f"{where} has no {lacking}. Its columns are {_listed(names)}. Expected ra and dec in degrees "
            "(or RA_ICRS, DE_ICRS; RAJ2000, DEJ2000); rename its columns."
        )
    if "designation" in known:
        found["designation"] = known["designation"]
    return found


def normalise(table: Table, *, where: str, ref_epoch: float | None = None, found: dict | None = None) -> QTable:
    """
    Give the columns of a Gaia table their names, units and types.

    Parameters
    ----------
    table : Table
        As it was read. Not modified.
    where : str
        What to call it in an error.
    ref_epoch : float, optional
        Julian year of the positions, where the table does not say.
    found : dict, optional
        From :func:`find_columns`.

    Returns
    -------
    QTable
        Columns of :data:`COLUMNS`: those that the table has, and always the coordinates, ``ref_epoch``, proper motions,
        parallax and magnitude, NaN where there is none. Nothing is masked; flags that are not known are False.

    Raises
    ------
    CatalogError
        There are no coordinates, they are no numbers of degrees, or the epoch of proper motions is not known.
    """
    found = find_columns(table.colnames, where=where) if found is None else found
    result = QTable()
    if "source_id" in found:
        result["source_id"] = _identifiers(table[found["source_id"]], where)
    for column, unit in COLUMNS.items():
        own = found.get(column)
        if column in ("source_id", "ref_epoch"):
            continue
        if own is None:
            if column in _ALWAYS:
                result[column] = np.full(len(table), np.nan) * unit
        elif column in _FLAGS:
            result[column] = _flags(table[own], where)
        else:
            values = _numbers(table[own], unit, where)
            result[column] = values if unit is None else values * unit
    _check_coordinates(result, found, where)
    result["ra"] = (result["ra"].value % 360) * u.deg
    result["ref_epoch"] = _reference_epochs(table, found, result, ref_epoch, where) * u.yr
    good = np.isfinite(result["ra"].value) & np.isfinite(result["dec"].value)
    return result[[name for name in COLUMNS if name in result.colnames]][good]


def _numbers(column, unit: u.Unit | None, where: str) -> np.ndarray:
    """Float64 values in a unit, NaN for what is masked."""
    name = column.info.name
    own = _unit_of(column)
    values = getattr(column, "value", column) if isinstance(column, u.Quantity) else column
    values = getattr(values, "unmasked", values)
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(values)
    if values.dtype.kind not in "biuf":
        try:
            values = np.array([_number(text) for text in values], float)
        except (TypeError, ValueError):
            wrong = next(text for text in values if not _is_number(text))
            raise CatalogError(
                f"column {name!r} of {where} is text such as {str(wrong)!r}; expected numbers"
                f"{'' if unit is None else f' in {unit}'}. Convert it, for coordinates with astropy's SkyCoord."
            ) from None
    values = np.where(mask, np.nan, values.astype(float))
    if own is None or unit is None:
        return values
    if unit == _DEG and own in (u.hour, u.hourangle):
        return values * 15.0
    try:
        return values * own.to(unit)
    except u.UnitConversionError:
        raise CatalogError(f"column {name!r} of {where} is in {own}; expected {unit}. Convert it.") from None


def degrees(column, where: str) -> np.ndarray:
    """Give a column of coordinates in degrees, NaN for what is masked."""
    return _numbers(column, _DEG, where)


def _unit_of(column) -> u.Unit | None:
    own = getattr(column, "unit", None)
    if own is None or own == u.dimensionless_unscaled:
        return None
    if isinstance(own, u.UnrecognizedUnit):
        # The archive's dialects: 'mas.yr**-1', "'dex'", 'Angle[deg]'.
        name = re.sub(r"^\w+\[(.*)\]$", r"\1", own.name).replace("'", "").replace(".", " ")
        own = u.Unit(name, parse_strict="silent")
    return None if isinstance(own, u.UnrecognizedUnit) else u.Unit(own)


def _number(text) -> float:
    text = text.decode() if isinstance(text, bytes) else text
    return np.nan if text is None or str(text).strip().lower() in ("", "null", "none", "nan", "--") else float(text)


def _is_number(text) -> bool:
    try:
        _number(text)
    except (TypeError, ValueError):
        return False
    return True


def _identifiers(column: Column | MaskedColumn, where: str) -> np.ndarray:
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind in "iu":
        return np.where(mask, -1, values.astype("int64"))
    try:
        # A float holds no 19 digits: such identifiers would be other stars' names.
        if values.dtype.kind == "f":
            raise ValueError
        last = re.compile(r"(\d+)\s*$")  # of 'Gaia DR3 4583627001381815936' too
        rows = zip(values, mask, strict=True)
        return np.array([-1 if unknown else int(last.search(_text(value))[1]) for value, unknown in rows], "int64")
    except (TypeError, ValueError):
        raise CatalogError(
            f"column {column.info.name!r} of {where} holds no identifiers (its type is {values.dtype}); expected "
            "64-bit integers. Read the table again so that it keeps them, or leave the column out."
        ) from None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _flags(column, where: str) -> np.ndarray:
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind not in "biuf":
        values = np.array([_text(value).strip().lower() in ("t", "true", "1", "y") for value in values], bool)
    return np.nan_to_num(values.astype(float)).astype(bool) & ~mask


def _check_coordinates(result: QTable, found: dict, where: str) -> None:
    ra, dec = result["ra"].value, result["dec"].value
    good = np.isfinite(ra) & np.isfinite(dec)
    if len(ra) and not good.any():
        raise CatalogError(f"{where}: no row has both {found['ra']!r} and {found['dec']!r}. Check the file.")
    if (np.abs(dec[good]) > 90).any() or (ra[good] < -360).any() or (ra[good] > 360).any():
        raise CatalogError(
            f"{where}: {found['ra']!r} runs from {ra[good].min():.6g} to {ra[good].max():.6g} and {found['dec']!r} "
            f"from {dec[good].min():.6g} to {dec[good].max():.6g}; expected degrees, -90 to 90 in Dec. Are they "
            "swapped, or in arcsec?"
        )


def _reference_epochs(table: Table, found: dict, result: QTable, given: float | None, where: str) -> np.ndarray:
    """Julian year of the positions of every row."""
    n = len(table)
    if given is not None:
        if not 1900 <= given <= 2100:
            raise ParameterError(f"ref_epoch={given!r}; expected a Julian year, 2016.0 for Gaia DR3.")
        return np.full(n, float(given))
    if found["ra"].lower() in _J2000["ra"]:
        return np.full(n, 2000.0)
    moving = np.isfinite(result["pmra"].value) | np.isfinite(result["pmdec"].value)
    if "ref_epoch" in found:
        years = _numbers(table[found["ref_epoch"]], None, where)
        if (moving & ~np.isfinite(years)).any() or (years[np.isfinite(years)] < 1900).any() or (years > 2100).any():
            raise CatalogError(
                f"column {found['ref_epoch']!r} of {where} holds no Julian years such as 2016.0. Mend it, or pass "
                "ref_epoch=."
            )
        return years
    release = _release(table, found)
    if release is None and moving.any():
        raise CatalogError(
            f"{where} has proper motions, but no ref_epoch to start from. Pass ref_epoch=: 2016.0 for Gaia DR3, 2015.5 "
            "for DR2."
        )
    return np.full(n, np.nan if release is None else release)


def _release(table: Table, found: dict) -> float | None:
    """Take the release from names such as 'Gaia DR3 4583627001381815936'."""
    if "designation" not in found or not len(table):
        return None
    name = re.match(r"gaia\s+(e?dr\d)\s", _text(np.ma.getdata(table[found["designation"]])[0]).lower())
    return _RELEASES.get(name.group(1)) if name else None
