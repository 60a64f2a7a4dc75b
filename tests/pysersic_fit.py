"""
Fit cutout files with pysersic: ``python pysersic_fit.py FILE...`` prints a list with values and errors, as JSON.

It knows nothing of this package. Model, priors and likelihood are pysersic's. Its posterior is maximised by scipy's
trust-region Newton method, and the errors are those of the Gaussian that fits it there. Files of one shape and one PSF
share one compilation.
"""

import json
import sys

import jax
import numpy as np
from astropy.io import fits
from numpyro.infer.util import initialize_model
from pysersic import FitSingle
from pysersic.priors import PySersicSourcePrior
from scipy.optimize import minimize

jax.config.update("jax_enable_x64", True)

PARAMETERS = ("xc", "yc", "flux", "r_eff", "n", "ellip", "sky_back")
SAMPLES = 2000


def read(path):
    """Image, mask, sigma and PSF, as a GalfitS configuration names them: [file,0] to [file,3]."""
    with fits.open(path) as hdus:
        image, mask, sigma, psf = (hdus[n].data.astype(float) for n in range(4))
    scale = image[mask == 0].sum()
    return image / scale, mask, sigma / scale, psf, scale


def make_fit(image, mask, sigma, psf):
    """Give a function of (image, sigma, good pixels), for images of one shape and PSF, that is compiled once."""
    prior = PySersicSourcePrior("sersic", sky_type="flat", sky_guess=0.0, sky_guess_err=0.1 * np.median(sigma))
    prior.set_gaussian_prior("flux", 1.0, 1.0)
    for name, n in (("xc", image.shape[1]), ("yc", image.shape[0])):
        prior.set_gaussian_prior(name, (n - 1) / 2, 1.0)
    prior.set_truncated_gaussian_prior("r_eff", 5.0, 5.0, low=0.5)
    prior.set_uniform_prior("ellip", 0.0, 0.9)
    prior.set_uniform_prior("theta", 0.0, 2 * np.pi)
    prior.set_uniform_prior("n", 0.65, 8.0)
    fitter = FitSingle(image, sigma, psf, prior, mask=mask)
    model = fitter.build_model(return_model=False)
    start, potential, constrain, _ = initialize_model(jax.random.PRNGKey(1), model)
    flat, unflatten = jax.flatten_util.ravel_pytree(start.z)
    z0 = np.zeros(len(flat))  # the medians of the priors

    first = fitter.data, fitter.rms, fitter.mask

    def loss(z, data):
        fitter.data, fitter.rms, fitter.mask = data
        try:
            return potential(unflatten(z))
        finally:
            fitter.data, fitter.rms, fitter.mask = first

    value, gradient, hessian = jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    constrained = jax.jit(jax.vmap(lambda z: constrain(unflatten(z))))

    def fit(*data):
        best = minimize(
            value, z0, (data,), "trust-exact", jac=gradient, hess=hessian,
            options={"gtol": 1e-3, "initial_trust_radius": 0.5, "max_trust_radius": 2.0, "maxiter": 60},
        )  # fmt: skip
        covariance = np.linalg.inv(hessian(best.x, data))
        samples = np.random.default_rng(0).multivariate_normal(best.x, covariance, SAMPLES)
        values = constrained(samples)
        return {name: values[name] for name in PARAMETERS}

    return fit


def main(paths):
    compiled, results = {}, []
    for path in paths:
        image, mask, sigma, psf, scale = read(path)
        key = (image.shape, psf.tobytes())
        if key not in compiled:
            compiled[key] = make_fit(image, mask, sigma, psf)
        samples = compiled[key](image, sigma, mask == 0)
        found = {name: [float(np.median(v)), float(np.std(v))] for name, v in samples.items()}
        for name in ("flux", "sky_back"):
            found[name] = [float(value * scale) for value in found[name]]
        results.append(found)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
