"""Names of files that need no quotes."""

import re
from typing import Any

__all__ = ["short_value"]


def short_value(value: Any) -> str:
    """A value as part of a file name: what a shell or Hydra would read as grammar becomes ``-``."""
    text = re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(value)).strip("-") or "none"
    return f"-{text}" if str(value).startswith("-") else text
