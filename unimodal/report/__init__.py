"""The report of a run: one HTML file that needs no other, and what it is made from."""

from unimodal.report.finish import score_and_report
from unimodal.report.page import write_report

__all__ = ["score_and_report", "write_report"]
