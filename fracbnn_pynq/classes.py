"""Names of the classes of the two data sets, in the order of a network's logits."""

from __future__ import annotations

from importlib import resources

from .networks import CIFAR10, Network

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def default_classes(network: Network) -> tuple[str, ...]:
    """Class names of the data set a network is named after."""
    return CIFAR10_CLASSES if network.name == CIFAR10.name else imagenet_classes()


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 ImageNet classes."""
    text = resources.files("fracbnn_pynq.weights").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
