"""Names of parameters as people's checkpoints have them: with prefixes, in wrappers, beside other entries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import SourceError

Value = TypeVar("Value")

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
)
"""Entries that hold a state_dict, in the order in which they are taken; averaged weights where there are no others."""

_PREFIXES = frozenset({"model", "net", "network", "backbone", "student"})
_ANYWHERE = frozenset(
    {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "parametrizations"}
)
"""What DataParallel, torch.compile and the like put into names, in front or between."""

_AVERAGED = frozenset({"ema", "model_ema", "ema_model"})
_COUNTERS = frozenset({"total_ops", "total_params", "n_averaged"})
"""Last parts of names of what FLOP counters and averaging leave in a model."""

_SILENT = "num_batches_tracked"
_SHOWN = 5
_LONGEST = 200


def unwrap(state: Any) -> tuple[Any, list[str]]:
    """The innermost mapping that a checkpoint's entries wrap, and the names of the entries beside it."""
    ignored: list[str] = []
    for _ in range(len(WRAPPERS)):
        taken = next((key for key in WRAPPERS if isinstance(state, dict) and isinstance(state.get(key), dict)), None)
        if taken is None:
            break
        ignored += [str(key) for key in state if key != taken]
        state = state[taken]
    return state, ignored


def canonical_names(values: Mapping[str, Value], known: frozenset[str]) -> tuple[dict[str, Value], list[str]]:
    """``values`` under the names in ``known`` where prefixes are all that differs, and the names of those left out.

    Left out are counters that are no parameters, and averaged weights beside the others. Raises
    :class:`~fracbnn_pynq.errors.SourceError` where two have one name.
    """
    averaged = {name for name in values if name.split(".", 1)[0] in _AVERAGED}
    if not any(_canonical(name, known) in known for name in values.keys() - averaged):
        averaged = set()  # there are no others
    found: dict[str, Value] = {}
    origins: dict[str, str] = {}
    ignored = []
    for name, value in values.items():
        last = name.rpartition(".")[2]
        if name in averaged or last in _COUNTERS:
            ignored.append(name)
        elif last != _SILENT:
            canonical = _canonical(name, known)
            if canonical in origins:
                raise SourceError(
                    f"expected each parameter once, found {origins[canonical]!r} and {name!r}, both of which are "
                    f"{canonical!r}",
                    advice="take one of them out",
                )
            found[canonical], origins[canonical] = value, name
    return found, ignored


def _canonical(name: str, known: frozenset[str]) -> str:
    if name in known:
        return name
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    while ".".join(parts) not in known and len(parts) > 1 and parts[0] in _PREFIXES | _AVERAGED:
        parts = parts[1:]
    stripped = ".".join(parts)
    return stripped if stripped in known else name


def listed(names: Iterable[str]) -> str:
    """The first few of ``names``, for an error or a line of the log."""
    every = list(names)
    return ", ".join(name[:_LONGEST] for name in every[:_SHOWN]) + (", ..." if len(every) > _SHOWN else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """What to add to an error: those of ``names`` most like ``name``, if any."""
    name = name[:_LONGEST]
    found = difflib.get_close_matches(name, [other[:_LONGEST] for other in list(names)[:2000] if other != name], 3, 0.7)
    return f" (the nearest: {', '.join(found)})" if found else ""
