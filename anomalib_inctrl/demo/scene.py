# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A drawn product before it is lit, what the functions that draw it are given, and the lighting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_inctrl.demo.drawing import FINE, GRAIN, Draw, axes, blend, coverage, noise, noise_window, radius


@dataclass
class Scene:
    """Surfaces, before light.

    Attributes:
        albedo: Surface colour `(3, H, W)` in `[0, 1]`, defined everywhere, also outside the outline.
        relief: Height of the surface `(H, W)`, without the rounding of the rim.
        outline: Signed distance `(H, W)` to the solid; constantly -1 for a material that fills the image.
        backdrop: Colour `(3, H, W)` behind the solid.
        bevel: Width of the rounded rim.
        gloss: Strength of the highlight, a scalar.
        over: Coverage `(H, W)` in `[0, 1]` of something lying on top, or None.
        over_colour: Its colour `(3, 1, 1)`.
    """

    albedo: Tensor
    relief: Tensor
    outline: Tensor
    backdrop: Tensor
    bevel: float
    gloss: Tensor
    over: Tensor | None = None
    over_colour: Tensor | None = None

    def carve(self, sdf: Tensor) -> Scene:
        """Remove the solid inside `sdf`; the backdrop shows."""
        return replace(self, outline=torch.maximum(self.outline, -sdf))


@dataclass
class View:
    """What a function that draws a product is given: where each pixel lies on the product, and helpers.

    Attributes:
        x: Product coordinate to the right `(H, W)`.
        y: Product coordinate downwards `(H, W)`.
        draw: Random numbers of the image.
        omit: A scalar in `[0, 1)` that chooses the one element to leave out; None leaves out none.
    """

    x: Tensor
    y: Tensor
    draw: Draw
    omit: Tensor | None = None

    def noise(self, channel: int, scale: float = 1.0, stretch: float = 1.0) -> Tensor:
        """Noise of the surface `(H, W)`, `stretch` times coarser along x."""
        if scale == 1 and stretch == 1:
            return noise_window(self.draw, channel, self.x.shape[-1])
        return noise(self.draw, channel, self.x / stretch, self.y, scale)

    def omitted(self, n: int) -> Tensor:
        """Number of the element to leave out of `n`, a scalar; -1 for none."""
        return torch.tensor(-1.0) if self.omit is None else (self.omit * n).floor()

    def without(self, sdf: Tensor, cx: Tensor, cy: Tensor, reach: float | Tensor) -> Tensor:
        """Take what lies within `reach` of a point out of a shape, where an element is to be left out."""
        if self.omit is None:
            return sdf
        return torch.maximum(sdf, reach - radius(self.x - cx, self.y - cy))

    def matte(self, red: float, green: float, blue: float, speckle: float = 0.03) -> Tensor:
        """A plain background with faint speckle, `(3, H, W)`."""
        return self.draw.colour(red, green, blue) * (1 + self.noise(FINE) * speckle)

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
        """Complete a scene; without an outline the material fills the image and holes in it are dark."""
        albedo = albedo.expand(3, *self.x.shape)
        return Scene(
            albedo=albedo,
            relief=torch.zeros_like(self.x) if relief is None else relief,
            outline=torch.full_like(self.x, -1.0) if outline is None else outline,
            backdrop=torch.tensor(0.06).expand_as(albedo) if backdrop is None else backdrop,
            bevel=bevel,
            gloss=self.draw.uniform(0.85, 1.15) * gloss,
        )


def light_scene(scene: Scene, draw: Draw) -> Tensor:
    """Light a scene: diffuse light of a distant lamp at the upper left, highlight, contact shadow beside the solid.

    Args:
        scene: What to light.
        draw: Random numbers of the lamp, the exposure and the sensor noise.

    Returns:
        Image `(3, H, W)`, uint8.
    """
    size = scene.outline.shape[-1]
    u = draw.uniforms(6)
    azimuth, tilt = u[0] * 0.6 - 2.7, u[1] * 0.2 + 0.6
    to_lamp_x, to_lamp_y, to_lamp_z = torch.cos(azimuth) * tilt, torch.sin(azimuth) * tilt, (1 - tilt * tilt).sqrt()
    x, y = axes(size)
    exposure = u[2] * 0.1 + 0.95 + (u[3] * 0.1 - 0.05) * x + (u[4] * 0.1 - 0.05) * y
    sensor_noise = noise_window(draw, GRAIN, size) * (u[5] * 0.006 + 0.006)

    rim = (-scene.outline / scene.bevel).clamp(0, 1)
    height = scene.relief + rim * (2 - rim) * scene.bevel * 0.5
    padded = F.pad(height[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    slope = 0.25 * size  # half the number of pixels in a unit of length
    gx = (padded[1:-1, 2:] - padded[1:-1, :-2]) * slope
    gy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) * slope
    steep = (gx * gx + gy * gy + 1).rsqrt()
    lean = gx * to_lamp_x + gy * to_lamp_y
    diffuse = ((to_lamp_z - lean) * steep).clamp(min=0)
    # half-way vector between the lamp and the viewer straight above
    shine = ((to_lamp_z + 1 - lean) * (steep * (2 + 2 * to_lamp_z).rsqrt())).clamp(min=0)
    for _ in range(5):
        shine = shine.square_()
    shade = (0.35 + diffuse * (0.65 / 0.714)) * exposure

    covered = coverage(scene.outline)
    shadow = torch.exp(scene.outline.clamp(min=0) * -16) * -0.55 + 1
    image = scene.albedo * (shade * covered)
    image.addcmul_(scene.backdrop, shadow * exposure * (1 - covered))
    highlight = shine * scene.gloss * covered
    if scene.over is not None and scene.over_colour is not None:
        image = blend(image, scene.over_colour * exposure, scene.over)
        highlight = highlight * (1 - scene.over)
    image += sensor_noise + highlight
    return image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
