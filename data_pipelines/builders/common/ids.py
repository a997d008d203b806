"""Ids that a spreadsheet has rounded."""

import re

ROUNDED = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)?[eE]\+\d+$")
"""Spreadsheets write 5689413791121408 as 5.69E+15 when they save a table as CSV."""


def whole_id(group: str) -> str:
    """A group as it is, or '' (unknown) where its id was rounded, so that several share it."""
    return "" if ROUNDED.search(group) else group
