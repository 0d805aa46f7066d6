"""A check: one thing looked at, what was found, and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import FracBNNError, OverlayError

log = logging.getLogger(__name__)

Status = Literal["ok", "warning", "error"]
NOTHING_TO_DO = "nothing to do"


@dataclass(frozen=True)
class Check:
    """One line of a report. ``name``: what was looked at; ``found`` and ``advice``: plain words."""

    name: str
    status: Status
    found: str
    advice: str = NOTHING_TO_DO


def isolated(
    name: str,
    function: Callable[..., Check | Iterable[Check]],
    *args: object,
    unexpected: Status = "warning",
) -> list[Check]:
    """The checks ``function(*args)`` makes; where it raises, those before and one check ``name`` that says so.

    An error of this package is a finding ("error"); any other exception means that the check itself failed, which says
    nothing about the machine (``unexpected``).
    """
    checks: list[Check] = []
    try:
        result = function(*args)
        checks.extend([result] if isinstance(result, Check) else result)
    except FracBNNError as error:
        checks.append(Check(name, "error", error.message, error.advice or "fetch or install it again"))
    except Exception as error:  # a report with a hole is better than none
        log.info("check %r failed", name, exc_info=True)
        found = f"could not be checked ({type(error).__name__}: {error})"
        checks.append(Check(name, unexpected, found, "the other lines hold; fracbnn -v says more"))
    return checks


def raise_for_errors(checks: Iterable[Check]) -> None:
    """Raise OverlayError that lists every check with status "error", with its advice; do nothing without one."""
    errors = [check for check in checks if check.status == "error"]
    if errors:
        raise OverlayError("; ".join(f"{check.name}: {check.found} ({check.advice})" for check in errors))
