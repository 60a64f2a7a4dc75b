"""The report of a run: one page that opens without a network and says what can be trusted."""

from galprep_dask.pipeline.report.write import Written, write_page, write_report

__all__ = ["Written", "write_page", "write_report"]
