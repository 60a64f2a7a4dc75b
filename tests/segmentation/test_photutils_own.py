"""photutils' own tests of detect_sources and deblend_sources, run on ours over several chunkings.

They are taken from the installed photutils, by name, and their module's ``detect_sources`` and ``deblend_sources`` are
replaced while they run. What does not apply stands in one table, with the reason.
"""

import inspect
from importlib.metadata import version

import pytest
from photutils.segmentation.tests import test_deblend as own_deblend
from photutils.segmentation.tests import test_detect as own_detect
from photutils_adapter import CHUNKINGS, Adapter

INSTALLED = "3.0" if version("photutils").startswith("3.0.") else "3.1"

_FALLBACK = "that photutils replaced the mode is documented, not reported: no warning, info or flag"
_INSIDE = "tests functions inside photutils, not deblend_sources"
_PARALLEL = "threads, processes and progress are dask's here"
_NAN = "pixels that are not finite belong to no source here"
_NEGATIVE = "warns of negative thresholds, which are in order here"

#: Tests left out: module, name, the versions of photutils that have it, and why.
NOT_APPLICABLE = [
    (own_detect, "test_detect_sources_seeds_areas", "3.1", "tests what a SegmentationImage has cached"),
    (own_detect, "TestDetectSources.test_negative_scalar_threshold", "3.1", _NEGATIVE),
    (own_detect, "TestDetectSources.test_negative_quantity_threshold", "3.1", _NEGATIVE),
    (own_detect, "TestDetectSources.test_negative_array_threshold", "3.1", _NEGATIVE),
    (own_deblend, "TestDeblendSources.test_contrast_one_fresh_image", "3.1", _FALLBACK),
    (own_deblend, "TestDeblendSources.test_data_nan", "3.1", _NAN),
    (own_deblend, "TestDeblendSources.test_data_nan_basin_contrast", "3.1", _NAN),
    (own_deblend, "TestDeblendSources.test_deblend_nproc_none", "3.0", _PARALLEL),
    (own_deblend, "TestDeblendSources.test_deblend_progress_bar", "3.0", _PARALLEL),
    (own_deblend, "TestDeblendSources.test_deprecated_keywords", "3.1", _PARALLEL),
    (own_deblend, "TestDeblendSources.test_empty_segmentation_image", "3.1", "nothing to deblend is no error here"),
    (own_deblend, "TestDeblendSources.test_flags_deblended", "3.1", _FALLBACK),
    (own_deblend, "TestDeblendSources.test_flags_nonposmin_children", "3.1", _FALLBACK),
    (own_deblend, "TestDeblendSources.test_single_source_methods", "3.0 3.1", _INSIDE),
    (own_deblend, "TestDeblendSources.test_source_with_negval", "3.0 3.1", _FALLBACK),
    (own_deblend, "TestDeblendSources.test_source_zero_min", "3.0 3.1", _FALLBACK),
    (own_deblend, "test_chunk_driver_matches_python_path", "3.1", _INSIDE),
    (own_deblend, "test_chunk_kernels_validate_inputs", "3.1", _INSIDE),
    (own_deblend, "test_compute_thresholds_matches_reference", "3.1", _INSIDE),
    (own_deblend, "test_contrast_chunk_packed_buffer", "3.1", _INSIDE),
    (own_deblend, "test_flags_fallback_without_deblending", "3.1", _FALLBACK),
    (own_deblend, "test_flags_n_markers_fallback", "3.1", _FALLBACK),
    (own_deblend, "test_huge_labels", "3.1", "labels above int32 are refused here"),
    (own_deblend, "test_make_markers_matches_legacy", "3.1", _INSIDE),
    (own_deblend, "test_markers_chunk_packed_buffer", "3.1", _INSIDE),
    (own_deblend, "test_n_markers_fallback", "3.1", _FALLBACK),
    (own_deblend, "test_n_markers_fallback_returns_none", "3.1", _INSIDE),
    (own_deblend, "test_n_threads_identical", "3.1", _FALLBACK),
    (own_deblend, "test_n_threads_invalid", "3.1", _PARALLEL),
    (own_deblend, "test_nmarkers_fallback", "3.0", _FALLBACK),
    (own_deblend, "test_nmarkers_fallback_multiproc", "3.0", _FALLBACK),
    (own_deblend, "test_nmarkers_fallback_returns_none", "3.0", _INSIDE),
    (own_deblend, "test_nonposmin_astropy_user_warning", "3.1", _FALLBACK),
    (own_deblend, "test_nonposmin_fallback_sinh", "3.1", _FALLBACK),
    (own_deblend, "test_nonposmin_multiproc", "3.0", _FALLBACK),
    (own_deblend, "test_python_path_connectivity_mismatch", "3.1", _INSIDE),
    (own_deblend, "test_relabel_consecutive", "3.1", _INSIDE),
    (own_deblend, "test_relabel_kernels", "3.1", _INSIDE),
    (own_deblend, "test_relabel_kernels_invalid_values", "3.1", _INSIDE),
    (own_deblend, "test_saddle_deblend", "3.1", _INSIDE),
    (own_deblend, "test_saddle_markers_match_reference", "3.1", _INSIDE),
    (own_deblend, "test_source_stats_all_nan", "3.1", _INSIDE),
    (own_deblend, "test_source_stats_matches_reference", "3.1", _INSIDE),
    (own_deblend, "test_watershed_matches_reference", "3.1", _INSIDE),
    (own_deblend, "test_write_deblended_labels", "3.1", _INSIDE),
]
_LEFT_OUT = {(module, name) for module, name, versions, _ in NOT_APPLICABLE if INSTALLED in versions.split()}


def _tests_in(module):
    """List the functions and the classes with methods of a test module, but for those of detect_threshold."""
    for name, item in vars(module).items():
        if (name.startswith("test_") and inspect.isfunction(item)) or (
            name.startswith("Test") and inspect.isclass(item) and name != "TestDetectThreshold"
        ):
            yield name, item


def _methods(item):
    return [name for name in vars(item) if name.startswith("test_")]


for _module in (own_detect, own_deblend):
    for _name, _item in list(_tests_in(_module)):
        if inspect.isclass(_item):
            _hidden = {name: None for name in _methods(_item) if (_module, f"{_name}.{name}") in _LEFT_OUT}
            globals()[_name] = type(_name, (_item,), _hidden | {"__module__": __name__})
        elif (_module, _name) not in _LEFT_OUT:
            globals()[_name] = _item


@pytest.fixture(autouse=True, params=CHUNKINGS)
def chunking(request, monkeypatch):
    """Replace what photutils' tests call."""
    adapter = Adapter(CHUNKINGS[request.param])
    monkeypatch.setattr(own_detect, "detect_sources", adapter.detect_sources)
    monkeypatch.setattr(own_deblend, "detect_sources", adapter.detect_sources)
    monkeypatch.setattr(own_deblend, "deblend_sources", adapter.deblend_sources)


def test_all_is_run_but_what_the_table_names():
    there, run = set(), set()
    for module in (own_detect, own_deblend):
        for name, item in _tests_in(module):
            methods = _methods(item) if inspect.isclass(item) else []
            there |= {(module, f"{name}.{method}") for method in methods} or {(module, name)}
            if methods:
                here = globals()[name]
                run |= {(module, f"{name}.{method}") for method in methods if getattr(here, method) is not None}
            elif globals().get(name) is item:
                run.add((module, name))
    assert there >= _LEFT_OUT, "the table names tests that this photutils does not have"
    assert run == there - _LEFT_OUT
    assert {v for _, _, versions, _ in NOT_APPLICABLE for v in versions.split()} == {"3.0", "3.1"}
