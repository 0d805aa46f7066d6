"""How often a classifier is right about labelled pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .classifier import Classifier
from .datasets import Source
from .errors import SourceError

TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """Counts over the pictures of one source, of which ``unreadable`` could not be read: accuracies are shares of the
    others. ``by_class``: of each class, the right ones and all that were read."""

    name: str
    pictures: int
    right: int
    right_in_top: int
    by_class: dict[str, tuple[int, int]]
    unreadable: int = 0

    @property
    def read(self) -> int:
        """How many pictures could be read."""
        return self.pictures - self.unreadable

    @property
    def share(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self.right / self.read

    @property
    def share_in_top(self) -> float:
        """Share of the pictures whose label is among the :data:`TOP` best answers."""
        return self.right_in_top / self.read

    @property
    def standard_error(self) -> float:
        """Of :attr:`share`, from the number of pictures."""
        return math.sqrt(self.share * (1 - self.share) / self.read)


@dataclass
class Repeats:
    """What changes between passes over the same pictures, of which :meth:`note` is told everything.

    Pictures are numbers from 0, as in the source.
    """

    _first: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Of each picture a digest of its logits and its label, when it was seen first."""
    logits: set[int] = field(default_factory=set)
    """Pictures with other logits, in any bit, than in the first pass."""
    labels: set[int] = field(default_factory=set)
    """Those among them with another label."""

    def note(self, pictures: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Take in the logits float32 [n, classes] of some pictures."""
        for number, row in zip(pictures.tolist(), logits, strict=True):
            found = hashlib.blake2b(row.tobytes(), digest_size=16).digest(), int(row.argmax())
            digest, label = self._first.setdefault(number, found)
            if found[0] != digest:
                self.logits.add(number)
            if found[1] != label:
                self.labels.add(number)


def evaluate(
    classifier: Classifier,
    source: Source,
    done: Callable[[int], object] = lambda _: None,
    leave_out: Callable[[SourceError], object] | None = None,
    note: Callable[[npt.NDArray[np.int64], npt.NDArray[np.float32]], object] = lambda _pictures, _logits: None,
) -> Accuracy:
    """Classify all of ``source``; ``done`` is told how many pictures each step was, ``note`` which and their logits.

    ``leave_out`` is told of each picture that cannot be read, and these are counted; without it the first one raises.

    Classes are matched by their names where there are any, so that their order does not matter and some may be missing.
    Raises :class:`~fracbnn_pynq.errors.SourceError` for classes that the model does not know, and for no or unreadable
    pictures.
    """
    truth = source.labels_for(classifier.labels)
    if not len(truth):
        raise SourceError(f"{source.name}: expected labelled pictures, found none")
    top = min(TOP, len(classifier.labels))
    found = np.full((len(truth), top), -1, np.int64)  # no class: not read
    for part, images in source.batches(classifier.network, leave_out):
        # Stable, so that equal logits are in the order of classes, as in Classifier.rank.
        logits = classifier.logits(images)
        found[part] = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        note(part, logits)
        done(len(images))
    read = found[:, 0] >= 0
    if not read.any():
        raise SourceError(f"{source.name}: expected labelled pictures, found none of {len(truth)} that can be read")
    unreadable = len(truth) - int(read.sum())
    count, found, truth = len(truth), found[read], truth[read]
    right = found[:, 0] == truth
    by_class = {
        classifier.labels[index]: (int(right[truth == index].sum()), int((truth == index).sum()))
        for index in np.unique(truth)
    }
    in_top = int((found == truth[:, None]).any(axis=1).sum())
    return Accuracy(source.name, count, int(right.sum()), in_top, by_class, unreadable)
