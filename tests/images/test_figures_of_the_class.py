"""The documentation's two figures, from what the class holds and from the Dataset that it gives."""

import numpy as np
from fields import SCALE
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask import open_image
from galprep_dask.gsutils import normimg
from galprep_dask.plotting import plot_cutout, plot_sky
from galprep_dask.stats import sigma_clipped_stats


def drawn(axes, number=0):
    return axes.images[number].get_array()


def test_sky_triptych(field):
    img = IM.image(open_image(field[0], chunks=(50, 60)))
    original = img.data.data
    img.sky_subtraction(order=1, sdmask=np.abs(field[1]) > 4)
    _, median, std = sigma_clipped_stats(original)
    panels = ((original, median), (img.sky, median), (img.data.data, 0.0))
    for figure in (plot_sky(original, img.sky, img.data.data), plot_sky(open_image(field[0]), img.sky_model)):
        for axes, (plane, white) in zip(figure.axes, panels, strict=False):
            expected = normimg(np.asarray(plane), immin=std, immax=5 * std, sky=white, frac=0.6)
            np.testing.assert_allclose(drawn(axes), expected, atol=1e-5)


def test_cutout_with_its_mask(cut):
    cut.cut_mask_image = cut.generate_cutmask(1.5)
    para = cut.coordinates_transfer_para
    figure = plot_cutout(
        cut.cut_image, cut.cut_mask_image, sigma=cut.cut_sigma_image, target=(para["x0"], para["y0"])
    )
    image, sigma = figure.axes[:2]
    _, _, std = sigma_clipped_stats(cut.cut_image, cut.cut_mask_image)
    brightest = np.abs(cut.cut_image[~cut.cut_mask_image]).max()
    expected = normimg(cut.cut_image, immin=5 * std, immax=brightest, frac=0.4)
    np.testing.assert_allclose(drawn(image), expected, atol=1e-6)
    np.testing.assert_array_equal(~np.ma.getmaskarray(drawn(image, 1)), cut.cut_mask_image)
    assert cut.cut_mask_image.any()
    np.testing.assert_array_equal(drawn(sigma), cut.cut_sigma_image)
    assert {(*line.get_xdata(), *line.get_ydata()) for line in image.lines} == {(para["x0"], para["y0"])}


def test_cutout_of_the_dataset(flat):
    img = IM.image(flat)
    img.cal_sigma_image(1.0)
    image, sigma, pulls, *_ = plot_cutout(img.to_dataset().galprep.cutout(RA, DEC, 61)).axes
    img.img_cut(RA, DEC, 30 * SCALE)
    np.testing.assert_array_equal(drawn(sigma), img.cut_sigma_image)
    assert drawn(image).shape == (61, 61) != SHAPE
    assert pulls.get_title().startswith("image / sigma")
