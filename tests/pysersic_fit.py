"""
Fit cutout files with pysersic: ``python pysersic_fit.py FILE...`` prints a list with values and errors, as JSON.

It knows nothing of this package. Model, priors and likelihood are pysersic's; numpyro's own optimiser and Laplace
approximation find the fit and its errors. Files of one shape and one PSF share one compilation.
"""

import json
import sys

import jax
import numpy as np
import numpyro
from astropy.io import fits
from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_median
from pysersic import FitSingle
from pysersic.priors import PySersicSourcePrior

jax.config.update("jax_enable_x64", True)  # in single precision a search for the best fit ends far from it

PARAMETERS = ("xc", "yc", "flux", "r_eff", "n", "ellip", "theta")
SAMPLES = 2000


def read(path):
    """Image, mask, sigma and PSF, as a GalfitS configuration names them: [file,0] to [file,3]."""
    with fits.open(path) as hdus:
        image, mask, sigma, psf = (hdus[n].data.astype(float) for n in range(4))
    scale = image[mask == 0].sum()
    return image / scale, mask, sigma / scale, psf, scale


def make_fit(image, mask, sigma, psf, sky_error):
    """Give a compiled function of (image, sigma, good pixels) for images of one shape and PSF."""
    prior = PySersicSourcePrior("sersic", sky_type="flat", sky_guess=0.0, sky_guess_err=sky_error)
    prior.set_gaussian_prior("flux", 1.0, 1.0)
    for name, n in (("xc", image.shape[1]), ("yc", image.shape[0])):
        prior.set_gaussian_prior(name, (n - 1) / 2, 1.0)
    prior.set_truncated_gaussian_prior("r_eff", 5.0, 5.0, low=0.5)
    prior.set_uniform_prior("ellip", 0.0, 0.9)
    prior.set_uniform_prior("theta", 0.0, 2 * np.pi)
    prior.set_uniform_prior("n", 0.65, 8.0)
    fitter = FitSingle(image, sigma, psf, prior, mask=mask)
    model = fitter.build_model(return_model=False)
    guide = autoguide.AutoLaplaceApproximation(model, init_loc_fn=init_to_median)
    svi = SVI(model, guide, numpyro.optim.Minimize(), Trace_ELBO())
    start = svi.init(jax.random.PRNGKey(1))

    @jax.jit
    def fit(image, sigma, good):
        fitter.data, fitter.rms, fitter.mask = image, sigma, good
        state, loss = svi.update(start)
        samples = guide.sample_posterior(jax.random.PRNGKey(2), svi.get_params(state), sample_shape=(SAMPLES,))
        return {name: samples[name] for name in PARAMETERS}, loss

    return fit


def main(paths):
    compiled, results = {}, []
    for path in paths:
        image, mask, sigma, psf, scale = read(path)
        key = (image.shape, psf.tobytes())
        if key not in compiled:
            compiled[key] = make_fit(image, mask, sigma, psf, 0.1 * np.median(sigma))
        samples, loss = compiled[key](*(np.asarray(a, np.float32) for a in (image, sigma)), mask == 0)
        found = {name: [float(np.median(v)), float(np.std(v))] for name, v in samples.items()}
        found["flux"] = [value * scale for value in found["flux"]]
        results.append(found | {"loss": float(loss)})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
