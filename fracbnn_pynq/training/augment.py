"""Random variations of a batch of pictures, reproducible from a generator. uint8 [N, 3, H, W] throughout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .recipe import Recipe


def augment(pictures: Tensor, recipe: Recipe, generator: torch.Generator, progress: float = 0.0) -> Tensor:
    """``pictures`` shifted or zoomed, and mirrored, each in its own way; of the same shape.

    At the run's ``progress``, 0 to 1.
    """
    in_place = progress >= recipe.in_place_from
    if recipe.zoom < 1 and not in_place:
        pictures = _zoomed(pictures, recipe.zoom, generator)
    elif recipe.shift > 0 and not in_place:
        pictures = _shifted(pictures, round(recipe.shift * pictures.shape[-1]), generator)
    if recipe.flip:
        mirrored = torch.rand(len(pictures), generator=generator) < 0.5
        pictures = torch.where(mirrored.view(-1, 1, 1, 1).to(pictures.device), pictures.flip(3), pictures)
    return pictures


def resized(pictures: Tensor, size: int) -> Tensor:
    """``pictures`` averaged down to ``size`` x ``size``: float 0..255, or as they are if they have that size."""
    if pictures.shape[-1] == size:
        return pictures
    return functional.interpolate(pictures.float(), size=(size, size), mode="area")


def _shifted(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each moved by up to ``most`` pixels each way; what comes in at the border is black."""
    count, _, height, width = pictures.shape
    padded = functional.pad(pictures, (most, most, most, most))
    corner = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows = (corner[0] + torch.arange(height)).to(pictures.device)
    columns = (corner[1] + torch.arange(width)).to(pictures.device)
    which = torch.arange(count, device=pictures.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)


def _zoomed(pictures: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """Of each a random square of at least ``least`` of its edge, scaled back to the whole."""
    count = len(pictures)
    scale = least + (1 - least) * torch.rand(count, generator=generator)
    shift = (2 * torch.rand(2, count, generator=generator) - 1) * (1 - scale)
    zero = torch.zeros(count)
    rows = [torch.stack([scale, zero, shift[0]], 1), torch.stack([zero, scale, shift[1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    sampled = functional.grid_sample(
        pictures.float(), grid.to(pictures.device), mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return sampled.round().to(torch.uint8)
