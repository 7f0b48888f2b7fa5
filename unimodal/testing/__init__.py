"""Checks that projects can run on their own classes and models, and fixtures for tests.

`check_modality` holds a modality to the contract. `unimodal.testing.fixtures` registers small fake
modalities when it is imported, and only then.
"""

from unimodal.testing.conformance import Finding, Report, check_modality

__all__ = ["Finding", "Report", "check_modality"]
