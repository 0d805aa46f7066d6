"""What careless readers of files fall into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Malicious:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)
