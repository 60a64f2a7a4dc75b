"""The targets of a run as the table of the page has them: columns of plain values, one row for each target."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from galprep_dask.pipeline.report.folder import Column, Product, RunFolder

__all__ = ["STATUSES", "Target", "gather", "table_of"]

#: States of a target, worst first.
STATUSES = ("failed", "partly", "skipped", "done")

#: Measured columns that do not depend on the band.
_OF_TARGET = ("redshift",)
#: Units and words of columns whose table does not say.
_KNOWN = {
    "ra": ("RA", "deg", "right ascension, ICRS"),
    "dec": ("Dec", "deg", "declination, ICRS"),
    "redshift": ("redshift", "", "of the list of targets"),
    "mag": ("mag", "mag", "magnitude in the catalogue of the band"),
    "re": ("Re", "arcsec", "half-light radius in the catalogue of the band"),
    "q": ("q", "", "axis ratio in the catalogue of the band"),
    "sigchk": ("sigma check", "", "standard deviation of source-free pixels over sigma; 1 is right"),
    "fwhm": ("FWHM", "arcsec", "of the PSF"),
    "masked": ("masked", "%", "pixels of the cutout that are not to be fitted"),
}


@dataclass(frozen=True)
class Target:
    """A target with its products."""

    name: str
    file_name: str
    ra: float | None
    dec: float | None
    status: str
    products: list[Product]

    @property
    def flags(self) -> list[str]:
        """Flags of all products, each once."""
        return list(dict.fromkeys(flag for product in self.products for flag in product.flags))

    @property
    def reasons(self) -> list[str]:
        """Why products failed, with the bands each reason holds for; where none failed, why some were skipped."""
        where: dict[str, list[str]] = {}
        status = "failed" if any(product.status == "failed" for product in self.products) else "skipped"
        for product in self.products:
            if product.status == status and product.reason:
                bands = where.setdefault(product.reason.removeprefix(f"band {product.band}: "), [])
                bands += [product.band] if product.band and product.band not in bands else []
        return [(", ".join(bands) + ": " if bands else "") + reason for reason, bands in where.items()]


def gather(products: Iterable[Product]) -> list[Target]:
    """Group the rows of a manifest by target, in order; file names tell targets of the same name apart."""
    grouped: dict[str, list[Product]] = {}
    for product in products:
        grouped.setdefault(product.file_name or product.target, []).append(product)
    return [
        Target(rows[0].target, rows[0].file_name, rows[0].ra, rows[0].dec, _status(rows), rows)
        for rows in grouped.values()
    ]


def _status(products: list[Product]) -> str:
    told = {product.status for product in products}
    if "failed" in told:
        return "partly" if "done" in told else "failed"
    return "done" if "done" in told else "skipped"


def table_of(run: RunFolder, targets: list[Target]) -> dict[str, Any]:
    """
    Give what the page's table is made of.

    Parameters
    ----------
    run : RunFolder
    targets : list of Target

    Returns
    -------
    dict
        JSON can hold it. Measured columns are there once per band, but for those of the list of targets.
    """
    bands = [band.name for band in run.bands]
    columns = [_column(Column("ra"), [target.ra for target in targets])]
    columns.append(_column(Column("dec"), [target.dec for target in targets]))
    per_band = [{one.band: one for one in target.products if one.kind == "cutout"} for target in targets]
    for column in run.columns:
        values = {
            band: [cuts[band].measured[column.name] if band in cuts else None for cuts in per_band] for band in bands
        }
        if all(value is None for rows in values.values() for value in rows):
            continue
        columns.append(_column(column, _whole(values) if column.name in _OF_TARGET else values))
    flags = sorted({flag for target in targets for flag in target.flags})
    forms = list(dict.fromkeys(_form(product) for target in targets for product in target.products))
    number = {form: k for k, form in enumerate(forms)}
    return {
        "bands": bands,
        "columns": columns,
        "flags": flags,
        "statuses": list(STATUSES),
        "forms": [list(form) for form in forms],
        "name": [target.name for target in targets],
        "file": [target.file_name for target in targets],
        "status": [STATUSES.index(target.status) for target in targets],
        "flagged": [[flags.index(flag) for flag in target.flags] for target in targets],
        "reason": ["; ".join(target.reasons) for target in targets],
        "products": [
            [[number[_form(product)], product.status, product.reason] for product in target.products]
            for target in targets
        ],
    }


def _form(product: Product) -> tuple[str, str, str]:
    """Give kind, band and path with the target's name left out: the same for nearly all targets."""
    return product.kind, product.band, product.path.replace(product.file_name or "\0", "*")


def _whole(values: dict[str, list]) -> list:
    """Give the one value of each target that its bands agree on."""
    return [next((value for value in row if value is not None), None) for row in zip(*values.values(), strict=True)]


def _column(column: Column, values: list | dict[str, list]) -> dict[str, Any]:
    label, unit, description = _KNOWN.get(column.name, (column.name.replace("_", " "), "", ""))
    every = values if isinstance(values, list) else [value for rows in values.values() for value in rows]
    numeric = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in every)
    if numeric and unit == "%" and not column.unit:  # the manifest has shares
        percent = lambda rows: [None if value is None else 100 * value for value in rows]  # noqa: E731
        values = percent(values) if isinstance(values, list) else {band: percent(rows) for band, rows in values.items()}
        every = percent(every)
    decimals = _decimals(column.name, [value for value in every if value is not None]) if numeric else 0
    rounded = lambda rows: [None if v is None else round(v, decimals) if numeric else str(v) for v in rows]  # noqa: E731
    return {
        "key": column.name,
        "label": label,
        "unit": column.unit or unit,
        "title": column.description or description,
        "numeric": numeric,
        "decimals": decimals,
        "values": rounded(values) if isinstance(values, list) else [rounded(rows) for rows in values.values()],
        "per_band": isinstance(values, dict),
    }


def _decimals(name: str, values: list) -> int:
    """Give how many decimals all values of a column have, so that they stand in line: four digits of a middling one."""
    if name in ("ra", "dec"):
        return 5
    if all(isinstance(value, int) for value in values):
        return 0
    sizes = sorted(abs(value) for value in values if value)
    middling = sizes[len(sizes) // 2] if sizes else 1.0
    return int(min(6, max(0, 3 - math.floor(math.log10(middling)))))
