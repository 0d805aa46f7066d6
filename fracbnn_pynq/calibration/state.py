"""A calibration's state on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..draft import LayerDraft
from ..errors import ModelError
from ..files import write_file
from .teacher import Teacher
from .work import LayerReport, Work

Arrays = dict[str, npt.NDArray[Any]]


class RunState:
    """What is done of the calibration called ``key``; kept in ``folder``, or nowhere if that is ``None``."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self._key = key

    def teacher(self, make: Callable[[], Teacher]) -> Teacher:
        """The float network's observations, made at most once."""
        found = self._load("teacher")
        if found is None:
            teacher = make()
            arrays: Arrays = {"logits": teacher.logits, "last": teacher.last}
            arrays |= {f"sums.{name}": value for name, value in teacher.sums.items()}
            arrays |= {f"kept.{name}": value for name, value in teacher.kept.items()}
            self._store("teacher", arrays)
            return teacher
        return Teacher(found["logits"], _under("sums.", found), _under("kept.", found), found["last"])

    def save(self, work: Work, reports: list[LayerReport]) -> None:
        """Keep the draft and the reports as they are after a step."""
        draft = work.draft
        arrays: Arrays = {"reports": np.array(json.dumps([asdict(report) for report in reports]))}
        arrays |= {"stem_raw": draft.stem_raw, "fc_weight": draft.fc_weight, "fc_bias": draft.fc_bias}
        for name, layer in draft.layers.items():
            arrays[f"bits.{name}"] = np.packbits(layer.bits, axis=-1)
            arrays[f"wanted.{name}"] = layer.wanted
            arrays[f"raw.{name}"] = layer.raw
        if work.affine is not None:
            arrays["affine"] = work.affine
        if work.orders is not None:
            arrays |= {f"order.{width}": order for width, order in work.orders.items()}
            arrays |= {f"sums.{name}": value for name, value in work.teacher.sums.items()}
        self._store("layers", arrays)

    def restore(self, work: Work) -> list[LayerReport]:
        """Put a kept state into ``work``; the reports of the steps that are done, none where there is no state."""
        found = self._load("layers")
        if found is None:
            return []
        draft = work.draft
        draft.stem_raw, draft.fc_weight, draft.fc_bias = found["stem_raw"], found["fc_weight"], found["fc_bias"]
        for name in draft.layers:
            bits = np.unpackbits(found[f"bits.{name}"], axis=-1)
            draft.layers[name] = LayerDraft(bits, found[f"wanted.{name}"], found[f"raw.{name}"])
        work.affine = found.get("affine")
        orders = {int(width): order for width, order in _under("order.", found).items()}
        if orders:
            work.orders = orders
            work.teacher.sums |= _under("sums.", found)
            work.teacher.last = np.ascontiguousarray(work.teacher.last[..., orders[draft.network.features]])
        return [LayerReport(**report) for report in json.loads(str(found["reports"]))]

    def clear(self) -> None:
        """Throw the state away."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _store(self, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        if self._folder is None:
            return
        buffer = io.BytesIO()
        named: dict[str, Any] = {"key": np.array(self._key), **arrays}
        np.savez(buffer, **named)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"cannot make the folder {self._folder}: {error.strerror}") from None
        write_file(self._folder / f"{name}.npz", buffer.getvalue(), ModelError)

    def _load(self, name: str) -> Arrays | None:
        if self._folder is None:
            return None
        try:
            with np.load(self._folder / f"{name}.npz", allow_pickle=False) as archive:
                found = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            return None
        return found if str(found.get("key")) == self._key else None


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
