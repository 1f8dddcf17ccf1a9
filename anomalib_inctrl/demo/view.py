# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the functions that draw products and materials get: where each pixel lies on the product, and helpers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anomalib_inctrl.demo.shapes import FINE, Draw, Scene, noise, radius, window

NOTHING_OMITTED = -1.0


@dataclass
class View:
    """Where each pixel of a batch lies on the product.

    Attributes:
        x: Product coordinate to the right `(B, H, W)`.
        y: Product coordinate downwards `(B, H, W)`.
        draw: Random numbers of the images.
        omit: `(B, 1, 1)`; in `[0, 1)` it names the one element that is left out, -1 leaves out none.
    """

    x: Tensor
    y: Tensor
    draw: Draw
    omit: Tensor

    @property
    def pixel(self) -> float:
        """Side of a pixel (the zoom of the pose is close enough to 1 to be ignored)."""
        return 2 / self.x.shape[-1]

    def noise(self, channel: int, scale: float = 1.0, stretch: float = 1.0) -> Tensor:
        """Noise of the surface, `stretch` times coarser along x."""
        if scale == 1 and stretch == 1:
            return window(self.draw, channel, self.x.shape[-1])
        return noise(self.draw, channel, self.x / stretch, self.y, scale)

    def inside(self, sdf: Tensor) -> Tensor:
        """Antialiased coverage `(B, H, W)` of a shape."""
        return (0.5 - sdf / self.pixel).clamp(0, 1)

    def omitted(self, n: int) -> Tensor:
        """Number of the element to leave out of `n`, `(B, 1, 1)`; -1 for none."""
        return torch.where(self.omit < 0, self.omit, (self.omit * n).floor())

    def without(self, sdf: Tensor, cx: Tensor, cy: Tensor, reach: float | Tensor) -> Tensor:
        """Take what lies within `reach` of a point out of a shape, where an element is to be left out."""
        gone = radius(self.x - cx, self.y - cy) - reach
        return torch.where(self.omit < 0, sdf, torch.maximum(sdf, -gone))

    def matte(self, red: float, green: float, blue: float, speckle: float = 0.03) -> Tensor:
        """A plain background with faint speckle, `(B, 3, H, W)`."""
        return self.draw.colour(red, green, blue) * (1 + self.noise(FINE) * speckle)[:, None]

    def scene(
        self,
        albedo: Tensor,
        outline: Tensor | None = None,
        backdrop: Tensor | None = None,
        *,
        relief: Tensor | None = None,
        bevel: float = 0.05,
        gloss: float = 0.1,
    ) -> Scene:
        """Complete a scene; without an outline the material fills the picture and holes in it are dark."""
        scalar = torch.ones_like(self.omit)
        albedo = albedo.expand(-1, -1, *self.x.shape[-2:])
        dark = torch.full_like(scalar, 0.06)[:, None].expand_as(albedo)
        return Scene(
            albedo=albedo,
            relief=torch.zeros_like(self.x) if relief is None else relief,
            outline=torch.full_like(self.x, -1.0) if outline is None else outline,
            backdrop=dark if backdrop is None else backdrop,
            bevel=scalar * bevel,
            gloss=self.draw.uniform(0.85, 1.15) * gloss,
        )
