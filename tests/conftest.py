"""What holds for all tests."""

import os

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail, never skip: a lab test that did not run must not look like one that passed."""
    if item.get_closest_marker("lab") and os.geteuid() != 0:
        pytest.fail("Lab tests boot guests and need root: run `make test`, or pytest with sudo.", pytrace=False)
