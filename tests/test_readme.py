"""The README's code runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fields import tan_header, two_galaxies

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs_and_writes_a_cutout(number, tmp_path, monkeypatch):
    pixels, _, _ = two_galaxies((301, 341), sky=20.0)
    header = tan_header((301, 341), CRVAL1=150.1, CRVAL2=2.2, GAIN=2.0, EXPTIME=100.0)
    fits.writeto(tmp_path / "mosaic.fits", pixels, header)
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
    with fits.open("target.fits") as hdus:
        image, mask, sigma = (hdu.data for hdu in hdus)
        middle = tuple(n // 2 for n in image.shape)
        assert image[middle] > 100
        assert mask[middle] == 0
        assert mask[middle[0], middle[1] + 30] == 1
        assert (sigma > 0).all()
        assert abs(np.median(image)) < 0.3


def test_quick_start_is_two_commands():
    commands = re.findall(r"\n\n```\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert commands == ["pip install . && galprep demo\n", 'pip install -e ".[test]" && pytest\n']
