"""The table of differences: every row is a difference, has a reason, and is asserted somewhere."""

import re
from pathlib import Path

import pytest
from conformance.differences import DIFFERENCES

_SOURCES = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_row_is_a_difference_with_a_reason_and_a_case(name: str) -> None:
    row = DIFFERENCES[name]
    assert row.fasterapi != row.uvicorn
    assert row.reason.endswith(".")
    assert re.search(rf'side\(\s*kind,\s*"{re.escape(name)}"\s*\)', _SOURCES)
