import pytest

from galprep_dask.errors import ConfigError
from galprep_dask.pipeline.config import Config, parameters_hash, read_config
from galprep_dask.pipeline.template import config_template

MINIMAL = 'targets = "t.ecsv"\n[[bands]]\nname = "r"\nimage = "r.fits"\n'


def read(folder, text):
    path = folder / "config.toml"
    path.write_text(text)
    return read_config(path)


def test_defaults_and_paths_relative_to_the_file(tmp_path):
    more = '[[bands]]\nname = "K"\nimage = "s3://bucket/K.fits"\nhdu = 1\n'
    config = read(tmp_path, MINIMAL + 'weight = "w.fits"\n' + more)
    assert config.targets == str(tmp_path / "t.ecsv")
    assert config.output == str(tmp_path / "galprep-run")
    assert [band.image for band in config.bands] == [str(tmp_path / "r.fits"), "s3://bucket/K.fits"]
    assert config.bands[0].weight == str(tmp_path / "w.fits")
    assert (config.bands[1].hdu, config.bands[0].mask) == (1, None)
    assert (config.sky.order, config.psf.degree) == (3, "auto")


def test_template_is_a_configuration_and_names_every_key(tmp_path):
    config = read(tmp_path, config_template())
    assert config.bands[0].name == "r"
    assert all(getattr(config, name) == field.default for name, field in Config.model_fields.items()
               if name not in ("targets", "output", "bands"))  # fmt: skip
    # What stands behind a # is what is taken without it.
    uncommented = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line and " = ..." not in line else line
        for line in config_template().splitlines()
    )
    assert uncommented.count("\nmax_grow_size = ") == 2
    assert read(tmp_path, uncommented) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "zeropint = 25.0\n", r"bands\[0\].zeropint: no such key. Did you mean 'zeropoint'"),
        (MINIMAL + "[sky]\noder = 3\n", r"sky.oder: no such key. Did you mean 'order'"),
        ("target" + MINIMAL[7:], r"target: no such key. Did you mean 'targets'"),
        (MINIMAL + "[sky]\nxyzzy = 3\n", r"sky.xyzzy: no such key. There are model, order"),
        ('targets = "t.ecsv"\n', r"bands: missing"),
        ('targets = "t.ecsv"\nbands = []\n', r"bands"),
        (MINIMAL + "gain = 0.0\n", r"bands\[0\].gain=0.0: Input should be greater than 0"),
        (MINIMAL + "gain = nan\n", r"bands\[0\].gain"),
        (MINIMAL + "[psf]\nsize = 50\n", r"size=50 is even"),
        (MINIMAL + '[sky]\nmodel = "spline"\n', r"sky.model='spline'.*polynomial"),
        (MINIMAL + "[detection]\nconnectivity = 6\n", r"detection.connectivity=6"),
        (MINIMAL + '[[bands]]\nname = "R"\nimage = "x.fits"\n', r"two bands are called 'r'"),
        (MINIMAL + 'weight = "a"\nrms = "b"\n', r"both weight and rms"),
        (MINIMAL.replace('"r"', '"../r"'), r"bands\[0\].name='../r'"),
        (MINIMAL + 'gain = "2"\n', r"bands\[0\].gain='2'"),
        (MINIMAL + "hdu = 1.5\n", r"bands\[0\].hdu"),
        ("targets = \n", r"is no TOML.*line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=r"config\.toml") as caught:
        read(tmp_path, text)
    assert caught.match(message)


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, MINIMAL + "gane = 1.0\nexptime = -1\n[cutout]\nsize = 0\n")
    assert all(word in str(caught.value) for word in ("gane", "gain", "exptime=-1", "cutout.size=0"))


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml"):
        read_config(tmp_path / "none.toml")


def test_hash_follows_the_parameters(tmp_path):
    config = read(tmp_path, MINIMAL)
    other = read(tmp_path, MINIMAL + "[sky]\norder = 4\n")
    assert parameters_hash(config) == parameters_hash(read(tmp_path, MINIMAL))
    assert parameters_hash(config.sky) != parameters_hash(other.sky)
    assert parameters_hash(config.psf) == parameters_hash(other.psf)
