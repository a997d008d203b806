"""The tool that measures growth does what it says, on a few clips."""

import pytest

from tools.measure_growth import WORKS, measure


@pytest.mark.thorough
@pytest.mark.parametrize("name", WORKS)
def test_every_work_is_measured(name: str) -> None:
    found = measure(name, 300)
    assert found["seconds"] > 0
    assert found["mb"] >= 0
