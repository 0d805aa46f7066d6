"""Trust the hardware, and check it: an engine of which a share of the results is computed again on the CPU."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, FracBNNError
from ..files import write_file, write_stream
from ..text import to_json
from . import Backend, Reloadable

log = logging.getLogger(__name__)

KEPT = 16
"""Differing pictures that are kept for the report; the others are counted."""
_WAITING = 64
"""Pictures that may wait to be checked: 12 KB each for CIFAR-10, 150 KB for ImageNet."""

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """A picture of which the engine and the CPU found different logits. ``number``: which one it was, from 0.

    ``image`` uint8 [S, S, 3]; ``found`` by the engine, ``expected`` by the CPU and ``again`` by the engine in a second
    run, float32 [classes]; ``again`` is ``None`` where that run failed.
    """

    number: int
    image: Images
    found: Logits
    expected: Logits
    again: Logits | None

    @property
    def reproducible(self) -> bool:
        """Whether the second run found the same wrong bits."""
        return self.again is not None and not _other_bits(self.again, self.found)

    def as_dict(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "number": self.number,
            "label_differs": int(self.found.argmax()) != int(self.expected.argmax()),
            "reproducible": self.reproducible,
            "found": self.found.tolist(),
            "expected": self.expected.tolist(),
            "again": None if self.again is None else self.again.tolist(),
        }


def _other_bits(first: Logits, second: Logits) -> int:
    """How many of two results' logits differ in any bit: by value -0 would equal 0, and NaN not itself."""
    return int(np.count_nonzero(first.view(np.uint32) != second.view(np.uint32)))


def make_report_folder(folder: Path) -> None:
    """Make a folder for a report, if it is not there. Raises :class:`~fracbnn_pynq.errors.BackendError`."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BackendError(f"cannot make the folder {folder}: {error.strerror}") from None


class VerifiedBackend:
    """``engine``, of whose pictures the CPU computes every 1/``share``-th again, in the same arithmetic, beside it.

    A picture whose logits differ in any bit is run again; it is counted, and kept if it is one of the first
    :data:`KEPT`; the first one is logged. Results are handed out without waiting for that. ``wait``: where checking
    falls behind, calls wait for it, so that none is left out; else it leaves pictures out, and counts them.

    Owns both engines, and closes them. Raises :class:`~fracbnn_pynq.errors.BackendError` for a share that is not above
    0 and at most 1.
    """

    def __init__(self, engine: Backend, reference: Backend, share: float, *, wait: bool = True) -> None:
        if not 0 < share <= 1:
            raise BackendError(f"verify: expected a share above 0 and at most 1, found {share}")
        self.engine = engine
        self.name = engine.name
        self.network = engine.network
        self.arithmetic = engine.arithmetic
        self.share = share
        self._reference = reference
        self._wait = wait
        self._lock = threading.Lock()
        self._seen = 0
        self._counts = dict.fromkeys(("checked", "different", "reproducible", "labels_different", "left_out"), 0)
        self._kept: list[Difference] = []
        self._room = threading.Semaphore(_WAITING)
        # Its thread holds no reference to this while nothing waits, so that this is freed when nobody uses it any more.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="fracbnn-verify")

    def logits(self, images: Images) -> Logits:
        """As the engine's."""
        found = self.engine.logits(images)
        with self._lock:
            first = self._seen
            self._seen += len(images)
        for index in range(len(images)):
            number = first + index
            if int((number + 1) * self.share) != int(number * self.share):
                self._submit(number, images[index], found[index])
        return found

    @property
    def timings(self) -> Mapping[str, float]:
        """The engine's."""
        return self.engine.timings

    def counters(self) -> Mapping[str, int]:
        """The engine's."""
        return self.engine.counters()

    def describe(self) -> dict[str, str]:
        """What the engine says, and ``verified``: the share."""
        return {**self.engine.describe(), "verified": f"{self.share:g}"}

    def reload(self) -> None:
        """Reload the engine, where that can be."""
        if isinstance(self.engine, Reloadable):
            self.engine.reload()

    def close(self) -> None:
        """Check what still waits, and close both engines. Idempotent."""
        self._checker.shutdown()
        self.engine.close()
        self._reference.close()

    # --- what was found ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until everything that was handed out so far has been checked."""
        with contextlib.suppress(RuntimeError):  # closed: all has been checked
            self._checker.submit(int).result()

    def counts(self) -> dict[str, int]:
        """Pictures ``checked``, ``different``, ``reproducible`` and ``labels_different`` among these, ``left_out``."""
        with self._lock:
            return dict(self._counts)

    @property
    def differences(self) -> list[Difference]:
        """The first :data:`KEPT` differing pictures."""
        with self._lock:
            return list(self._kept)

    def summary(self) -> str:
        """One line for people."""
        counts = self.counts()
        text = f"verified {counts['checked']} pictures on the CPU, bit for bit: {counts['different']} differ"
        if counts["different"]:
            text += f" ({counts['reproducible']} again in a second run, {counts['labels_different']} in their label)"
        return text + (f"; {counts['left_out']} left out" if counts["left_out"] else "")

    def save(self, folder: Path) -> None:
        """Write ``verification.json`` and, of each picture that was kept, ``picture-NUMBER.png``; see
        :func:`make_report_folder`. Raises :class:`~fracbnn_pynq.errors.BackendError` where that cannot be."""
        from PIL import Image  # noqa: PLC0415 - for reports only

        self.settle()
        make_report_folder(folder)
        kept = self.differences
        for difference in kept:
            with write_stream(folder / f"picture-{difference.number}.png", BackendError) as stream:
                Image.fromarray(difference.image).save(stream, format="PNG")
        about = {"network": self.network.name, **self.describe(), **self.counts()}
        data = to_json({**about, "differences": [difference.as_dict() for difference in kept]})
        write_file(folder / "verification.json", data.encode("utf-8"), BackendError)

    # --- checking, in a thread of its own ---------------------------------------------------------------------------

    def _submit(self, number: int, image: Images, found: Logits) -> None:
        if not self._room.acquire(blocking=self._wait):
            self._leave_out()
            return
        try:
            self._checker.submit(self._check_safely, number, image.copy(), found.copy())
        except RuntimeError:  # somebody closes this
            self._room.release()
            self._leave_out()

    def _leave_out(self) -> None:
        with self._lock:
            self._counts["left_out"] += 1

    def _check_safely(self, number: int, image: Images, found: Logits) -> None:
        try:
            self._check(number, image, found)
        except Exception:  # a picture that cannot be checked must not end the checking of others
            log.exception("verify: picture %d could not be checked", number)
            self._leave_out()
        finally:
            self._room.release()

    def _check(self, number: int, image: Images, found: Logits) -> None:
        expected = self._reference.logits(image[None])[0]
        if not _other_bits(expected, found):
            with self._lock:
                self._counts["checked"] += 1
            return
        again = None
        with contextlib.suppress(FracBNNError):  # whoever uses the engine learns of its faults by itself
            again = self.engine.logits(image[None])[0]
        difference = Difference(number, image, found, expected, again)
        facts = difference.as_dict()
        with self._lock:
            first = not self._counts["different"]
            self._counts["checked"] += 1
            self._counts["different"] += 1
            self._counts["reproducible"] += facts["reproducible"]
            self._counts["labels_different"] += facts["label_differs"]
            if len(self._kept) < KEPT:
                self._kept.append(difference)
        if first:
            log.warning(
                "verify: picture %d has %d of %d logits that are not the CPU's in %s; a second run finds %s. Others "
                "are counted, and not logged",
                number,
                _other_bits(found, expected),
                len(found),
                self.arithmetic.name,
                "the same" if difference.reproducible else "others",
            )
