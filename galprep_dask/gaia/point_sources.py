"""Which sources of Gaia are no stars, or none that a position can be trusted of."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from astropy.table import QTable

from galprep_dask.errors import ParameterError

__all__ = ["extended_because"]


def extended_because(
    stars: QTable, *, max_ruwe: float | None = 1.4, max_excess_noise: float | None = 2.0,
    max_galaxy_probability: float | None = 0.5, max_quasar_probability: float | None = 0.5,
) -> np.ndarray:  # fmt: skip
    """
    Tell for every source of Gaia why it is not taken for a single star, as far as the columns are there.

    Parameters
    ----------
    stars : QTable
        From :func:`read_gaia_table`.
    max_ruwe : float, optional
        Largest renormalised unit weight error; above it the source is not one point. None keeps all.
    max_excess_noise : float, optional
        Largest ``astrometric_excess_noise`` in mas, where it is significant (``astrometric_excess_noise_sig`` above
        2, or not known) [1]_. None keeps all.
    max_galaxy_probability, max_quasar_probability : float, optional
        Largest ``classprob_dsc_combmod_galaxy`` and ``_quasar``; sources in the tables of galaxy and of quasar
        candidates are left out too, unless it is None.

    Returns
    -------
    (n,) array of str
        ``""`` for a star; else the first that applies of ``"duplicated_source"``, ``"galaxy"``, ``"quasar"``,
        ``"ruwe"``, ``"excess_noise"``. What is not known of a source counts for it.

    Raises
    ------
    ParameterError
        A limit makes no sense.

    References
    ----------
    .. [1] Lindegren et al. 2012, A&A 538, A78.

    Examples
    --------
    >>> stars = QTable({"ruwe": [1.0, 3.0, np.nan], "classprob_dsc_combmod_galaxy": [0.0, 0.0, 0.99]})
    >>> extended_because(stars).tolist()
    ['', 'ruwe', 'galaxy']
    """
    limits = {
        "max_ruwe": max_ruwe, "max_excess_noise": max_excess_noise, "max_galaxy_probability": max_galaxy_probability,
        "max_quasar_probability": max_quasar_probability,
    }  # fmt: skip
    for name, limit in limits.items():
        if limit is not None and not limit >= 0:
            raise ParameterError(f"{name}={limit!r}; expected zero or a positive number, or None for no limit.")

    def values(column):
        if column not in stars.colnames:
            return np.full(len(stars), np.nan)
        return np.asarray(u.Quantity(stars[column]).value, float)

    def flagged(column):
        return values(column) == 1

    def above(column, limit):
        return np.zeros(len(stars), bool) if limit is None else values(column) > limit

    galaxy = above("classprob_dsc_combmod_galaxy", max_galaxy_probability)
    quasar = above("classprob_dsc_combmod_quasar", max_quasar_probability)
    if max_galaxy_probability is not None:
        galaxy |= flagged("in_galaxy_candidates")
    if max_quasar_probability is not None:
        quasar |= flagged("in_qso_candidates")
    insignificant = values("astrometric_excess_noise_sig") <= 2
    noisy = above("astrometric_excess_noise", max_excess_noise) & ~insignificant
    reasons = {
        "duplicated_source": flagged("duplicated_source"), "galaxy": galaxy, "quasar": quasar,
        "ruwe": above("ruwe", max_ruwe), "excess_noise": noisy,
    }  # fmt: skip
    return np.select(list(reasons.values()), list(reasons), default="")
