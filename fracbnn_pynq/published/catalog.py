"""What is public: the bitstreams and trained weights of the FracBNN authors, as data.

Nothing of this is part of the package. Every file is named by repository, commit and path, and verified by its SHA-256
or, where nobody has published one, by its git blob id.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

from .. import figures
from ..cores import CIFAR10_CORE, IMAGENET_CORE, ULTRA96V2, Core
from ..errors import DownloadError, ModelError, UnknownOverlayError

DOWNLOAD_BASE = "https://raw.githubusercontent.com"
"""Where raw files are fetched from: ``<base>/<repository>/<commit>/<path>``."""
DOWNLOAD_BASE_VARIABLE = "FRACBNN_DOWNLOAD_BASE"
"""Environment variable that replaces :data:`DOWNLOAD_BASE`, for mirrors."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One public file.

    ``role`` says what it is to its artifact. ``size`` (bytes) and ``sha256`` are ``None`` where not known;
    ``git_blob``, the SHA-1 by which git names the content, is always known.
    """

    role: str
    path: str
    git_blob: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Files that belong together, from one commit of one public repository.

    ``licence`` is an SPDX identifier, or ``None`` where the repository states no licence.
    """

    name: str
    title: str
    network: str
    repository: str
    commit: str
    licence: str | None
    files: tuple[PublishedFile, ...]
    note: str

    def file(self, role: str) -> PublishedFile:
        """The file with this role; raises DownloadError where there is none."""
        for file in self.files:
            if file.role == role:
                return file
        roles = ", ".join(file.role for file in self.files)
        raise DownloadError(f"{self.name} has no file {role!r}: expected one of {roles}")

    def url(self, file: PublishedFile, base_url: str | None = None) -> str:
        """Where to download ``file``: below ``base_url``, else below FRACBNN_DOWNLOAD_BASE, else GitHub.

        Raises DownloadError where the base is not an http or https address.
        """
        base = base_url or os.environ.get(DOWNLOAD_BASE_VARIABLE) or DOWNLOAD_BASE
        if not base.startswith(("https://", "http://")):
            raise DownloadError(f"download base: expected an http:// or https:// address, found {base!r}")
        return "/".join((base.rstrip("/"), self.repository, self.commit, quote(file.path)))


@dataclass(frozen=True, kw_only=True)
class OverlayArtifact(Artifact):
    """A bitstream with its hand-off file (roles ``bitstream`` and ``handoff``), for ``part``.

    ``core``: the core in it; ``model`` names the model built into the bitstream, ``None`` where weights are streamed
    from memory, and ``default_model`` then the one whose parameters are made for the core.
    """

    core: Core
    model: str | None
    default_model: str | None = None
    part: str = ULTRA96V2

    @property
    def arithmetic(self) -> str:
        """Name of the arithmetic the core computes in."""
        return self.core.arithmetics[0]

    @property
    def clock_mhz(self) -> float:
        """The programmable-logic clock of the design."""
        return self.core.clock_mhz

    @property
    def vlnv(self) -> str:
        """The core's, see :class:`~fracbnn_pynq.cores.Core`."""
        return self.core.vlnv


@dataclass(frozen=True, kw_only=True)
class WeightsArtifact(Artifact):
    """A trained network as its authors published it; ``model`` is the name it has in this package."""

    model: str


_RELEASE = "cornell-zhang/FracBNN"
_RELEASE_COMMIT = "4652ea195d98e70ce5cd2d5715457b4578f10a46"
_WORKING = "pjh177787/FracNetHLS"
_WORKING_COMMIT = "f55f1dbd7aa1f17d015f428e71bbfab12d99192f"

CIFAR10_OVERLAY = OverlayArtifact(
    name="cifar10-overlay",
    title="CIFAR-10 accelerator for the Ultra96-V2, November 2020",
    network="cifar10",
    repository=_WORKING,
    commit=_WORKING_COMMIT,
    licence=None,
    files=(
        PublishedFile(
            role="bitstream",
            path="FracNetHLS-CIFAR10-alt/deploy/FracNet_T_0.bit",
            git_blob="26e7a391ee83ab9e62daa71240eed8dfc5a90169",
        ),
        PublishedFile(
            role="handoff",
            path="FracNetHLS-CIFAR10-alt/deploy/FracNet_T_0.hwh",
            git_blob="929cd3e9b1c1805e3b78a84d19fd249ee1bad26c",
            size=381_699,
            sha256="d743a0b3ea7dc748ec3677f4169df8abc5ddc16447f5cec902ab3dc1ed3eb1dc",
        ),
    ),
    core=CIFAR10_CORE,
    model="cifar10-authors",
    note=(
        f"Holds the weights of cifar10-authors and no others. On {figures.CIFAR10.pictures} its arithmetic is right "
        f"for {figures.CIFAR10.published} %, the float network with the same parameters for "
        f"{figures.CIFAR10.floating} %, a difference within the sampling error."
    ),
)

IMAGENET_OVERLAY = OverlayArtifact(
    name="imagenet-overlay",
    title="ImageNet accelerator for the Ultra96-V2, May 2021",
    network="imagenet",
    repository=_WORKING,
    commit=_WORKING_COMMIT,
    licence=None,
    files=(
        PublishedFile(
            role="bitstream", path="FracNet_Deploy/0503.bit", git_blob="ac4e6dc5a33ad2f8306235133cddac1690db1378"
        ),
        PublishedFile(
            role="handoff",
            path="FracNet_Deploy/0503.hwh",
            git_blob="22cb5a71519f5c0ef13b05ff490ac0e1200eab0e",
            size=367_248,
            sha256="e7e8ad097cd2feb5c234542cf39fbdc34f5932ab690e313d0b54c6437dcf8fbe",
        ),
    ),
    core=IMAGENET_CORE,
    model=None,
    default_model="imagenet-calibrated",
    note=(
        "Weights are streamed at run time. Its coarse numbers and an overlap of two maps in memory cost accuracy: on "
        f"the same {figures.IMAGENET.pictures} it reaches {figures.IMAGENET.published} % top-1 with its authors' "
        f"parameters, the float network with the same weights {figures.IMAGENET.floating} %. imagenet-calibrated has "
        "parameters that are fitted to it."
    ),
)

CIFAR10_WEIGHTS = WeightsArtifact(
    name="cifar10-weights",
    title="The authors' CIFAR-10 network, as released in 2021",
    network="cifar10",
    repository=_RELEASE,
    commit=_RELEASE_COMMIT,
    licence="BSD-3-Clause",
    files=(
        PublishedFile(
            role="conv_weights",
            path="xcel-cifar10/source/conv_weights.h",
            git_blob="db68896cd395fc8f28cc541fa2cbec9250016a23",
            size=145_842,
            sha256="11549fa118c73da8b7ea0fc940c674a4fe4b76560347d4998a4ebaa041f1bc53",
        ),
        PublishedFile(
            role="parameters",
            path="xcel-cifar10/source/weights_fracnet_64.h",
            git_blob="2dd881440d5de5e67d188fde43e4ddefdeada080",
            size=102_533,
            sha256="6cb3b9730cc2fff0dfda2c27baeb6ded4f5f247095802d79c05cd62febd19766",
        ),
    ),
    model="cifar10-authors",
    note="C++ tables of the released accelerator sources, 16 output channels per tile.",
)

CIFAR10_PREBUILT_WEIGHTS = WeightsArtifact(
    name="cifar10-prebuilt-weights",
    title="The authors' CIFAR-10 network, as built into the published bitstream",
    network="cifar10",
    repository=_WORKING,
    commit="de6f51f908d2ed38f306e143c66f8db8fd6e176d",
    licence=None,
    files=(
        PublishedFile(
            role="conv_weights",
            path="FracNetHLS-CIFAR10-alt/conv_weights.h",
            git_blob="8b102335575d63b786252a6925c97ef7225a4ffc",
            size=145_889,
            sha256="32c8e6bc476be0fd0fdf74a5e9fa87fcf29e07dded2f126afec4db3ef5c006ef",
        ),
        PublishedFile(
            role="parameters",
            path="FracNetHLS-CIFAR10-alt/weights_fracnet_64.h",
            git_blob="d9b66f3c20beaeb4ddf0304854a90c8db8446012",
            size=250_599,
            sha256="73b2e6355541d440d1caa7bc2889c8fcc4541e7bc2a630d05d0702e3fc75530e",
        ),
    ),
    model="cifar10-authors",
    note="The same weights as cifar10-weights in C++ tables of 8 output channels per tile; useful to check that.",
)

IMAGENET_WEIGHTS = WeightsArtifact(
    name="imagenet-weights",
    title="The authors' ImageNet network, as deployed on the board",
    network="imagenet",
    repository=_WORKING,
    commit=_WORKING_COMMIT,
    licence=None,
    files=(
        PublishedFile(
            role="conv3x3",
            path="FracNet_Deploy/conv3x3_weights_host_new.bin",
            git_blob="01f255bc0184ac58b79290ecc34972fb024025ae",
            size=3_142_656,
            sha256="b3097f91bae20af9a19c4e2de240335693a5337da63d9f473c3101febdc672a1",
        ),
        PublishedFile(
            role="conv1x1",
            path="FracNet_Deploy/conv1x1_weights_host_new.bin",
            git_blob="bccff742ccbcbc84dd40691caa4d49b9a275c2ac",
            size=392_448,
            sha256="26aa7672563ba8f6d2e9f17ae4c09875027885b4119f436be3d6b91e74b74f76",
        ),
        PublishedFile(
            role="parameters",
            path="FracNet_Deploy/other_weights_host_new.bin",
            git_blob="e14d30783eb5b6c2a6ca19cb1ef286b625800446",
            size=349_440,
            sha256="ef38a88e1ff1b62fb80e467a041611eae19a9b769cafe29d2f3a0753657ed9e3",
        ),
        PublishedFile(
            role="fc_weight",
            path="FracNet_Deploy/fc_weight_host.bin",
            git_blob="3026418f4bc843d764e7be1a785b60545ecce715",
            size=4_096_000,
            sha256="c11bfd7bb9ac905e2f78ffbcedbe9cf5040a15ae9d4aa0d2225cc2a8fb00ae12",
        ),
        PublishedFile(
            role="fc_bias",
            path="FracNet_Deploy/fc_bias_host.bin",
            git_blob="b2d9122157d01c56c9aab9804032d554b50a8f65",
            size=4_000,
            sha256="51fe23547bac925840ae97ac6630d113e6f809540ca888f2a82324a44613842f",
        ),
        PublishedFile(
            role="sample_image",
            path="FracNet_Deploy/image_hw_all_host_new.bin",
            git_blob="38c14269e2c3453679fd91f50f79c08ef36ed735",
            size=602_112,
            sha256="6cd3f2f640f64b7e2d9bde9a8efef0941bc139395211ae84502a8bb21d5ba8ac",
        ),
    ),
    model="imagenet-authors",
    note="Buffers as the accelerator reads them, the host's fully connected layer, and an encoded picture of a tench.",
)

OVERLAYS = (CIFAR10_OVERLAY, IMAGENET_OVERLAY)
WEIGHTS = (CIFAR10_WEIGHTS, CIFAR10_PREBUILT_WEIGHTS, IMAGENET_WEIGHTS)
ARTIFACTS: tuple[Artifact, ...] = (*OVERLAYS, *WEIGHTS)


def get_artifact(name: str) -> Artifact:
    """The artifact called ``name``; raises DownloadError for an unknown name."""
    for artifact in ARTIFACTS:
        if artifact.name == name:
            return artifact
    known = ", ".join(artifact.name for artifact in ARTIFACTS)
    raise DownloadError(f"nothing published is called {name!r}: expected one of {known}")


def get_overlay(name: str) -> OverlayArtifact:
    """The overlay of a network (``"cifar10"``) or of this name; raises OverlayError for an unknown name."""
    for overlay in OVERLAYS:
        if name in (overlay.name, overlay.network):
            return overlay
    known = ", ".join(f"{overlay.network} ({overlay.name})" for overlay in OVERLAYS)
    raise UnknownOverlayError(f"no published overlay for {name!r}: expected one of {known}")


def get_weights(name: str) -> WeightsArtifact:
    """The weights of a model (``"cifar10-authors"``) or of this name; raises ModelError for an unknown name."""
    for weights in WEIGHTS:
        if name in (weights.name, weights.model):
            return weights
    known = ", ".join(dict.fromkeys(weights.model for weights in WEIGHTS))
    raise ModelError(f"no published weights for {name!r}: expected one of {known}")
