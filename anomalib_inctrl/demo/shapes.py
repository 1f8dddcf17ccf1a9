# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Ground under the demo renderer: counter-based random numbers, noise fields, signed distances, lighting.

Everything works on batches of planes `(B, H, W)` and on any device. Lengths are in units of half an image side, so an
image spans `[-1, 1]` in x and y. Signed distances are negative inside.

Pixels of an image must not depend on which other images share its batch. Random numbers are therefore a hash of
(image key, stream, counter, element), and no operation is used whose result depends on the position inside a vector
register (on x86, `torch.atan2` and `torch.sigmoid` differ in the last bit between register lanes and loop tails).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK = 0xFFFFFFFF
ATLAS_SIZE = 1024
CELLS = 64  # Voronoi cells along one side of the atlas

FBM, FINE, CELL_EDGE, CELL_ID, GRAIN = range(5)
"""Channels of `noise_atlas`."""


_Word = TypeVar("_Word", int, Tensor)


def _mix(x: _Word) -> _Word:
    """Scramble 32-bit integers, held in int64 where a tensor (the "lowbias32" hash with its improved constants)."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


class Draw:
    """Random numbers for a batch of images; each image has its own key.

    Args:
        keys: `(B, 2)` int64 in `[0, 2^32)`, one pair per image.
        style_keys: The same for the product of each image; None where all are the products as designed.
        designed: `(B,)` bool, which images show the product as designed; goes with `style_keys`.
        stream: Namespace of the counter; the same stream of the same image always repeats the same numbers.
    """

    def __init__(
        self, keys: Tensor, style_keys: Tensor | None = None, designed: Tensor | None = None, stream: int = 0
    ) -> None:
        self.keys = keys
        self.style_keys = style_keys
        self.designed = designed
        self.stream = stream
        self._counter = 0

    @cached_property
    def _own(self) -> Tensor:
        return self._streamed(self.keys)

    @cached_property
    def _products(self) -> Tensor | None:
        return None if self.style_keys is None else self._streamed(self.style_keys)

    def child(self, stream: int) -> Draw:
        """Return an independent generator that starts its own count."""
        return Draw(self.keys, self.style_keys, self.designed, self.stream * 64 + stream + 1)

    def take(self, index: Tensor) -> Draw:
        """Return a generator for the chosen images that starts its count afresh."""
        style_keys = None if self.style_keys is None else self.style_keys[index]
        designed = None if self.designed is None else self.designed[index]
        return Draw(self.keys[index], style_keys, designed, self.stream)

    def _unit(self, keys: Tensor, n: int) -> Tensor:
        """`(B, n)` numbers in `[0, 1)` for the present count."""
        first = (self._counter * 4096 * 0x1E3779B1) & _MASK
        if n == 1:
            h = _mix(keys ^ _mix(first))
        else:
            steps = torch.arange(n, device=keys.device) * 0x1E3779B1
            h = _mix(keys ^ _mix((steps + first) & _MASK))
        return (h >> 8).to(torch.float32) * 2.0**-24

    def _streamed(self, keys: Tensor) -> Tensor:
        """Fold the pair of keys and the stream into one word per image, `(B, 1)`."""
        return _mix(_mix(keys[:, :1] ^ _mix(self.stream * 0x2545F491 & _MASK)) ^ keys[:, 1:])

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Uniform numbers in `[low, high)`, shape `(B, 1, 1)` to combine with planes."""
        self._counter += 1
        return self._unit(self._own, 1)[:, :, None] * (high - low) + low

    def uniforms(self, n: int) -> Tensor:
        """`(B, n)` uniform numbers in `[0, 1)`."""
        self._counter += 1
        return self._unit(self._own, n)

    def sign(self) -> Tensor:
        """-1 or 1, shape `(B, 1, 1)`."""
        return (self.uniform(0, 1) < 0.5).float() * 2 - 1

    def look(self, default: float, low: float, high: float) -> Tensor:
        """A trait of the product: `default` as designed, otherwise drawn from the style alone. Shape `(B, 1, 1)`."""
        self._counter += 1
        plain = torch.full((len(self.keys), 1, 1), default, device=self.keys.device)
        if self._products is None or self.designed is None:
            return plain
        own = self._unit(self._products, 1)[:, :, None] * (high - low) + low
        return torch.where(self.designed[:, None, None], plain, own)

    def colour(self, red: float, green: float, blue: float, spread: float = 0.02) -> Tensor:
        """A product colour in `[0, 1]` with slight variation of brightness between images, shape `(B, 3, 1, 1)`."""
        if self._products is None:
            self._counter += 4
            base = torch.tensor([red, green, blue], device=self.keys.device).view(1, 3, 1, 1)
            return base * (1 + self._unit(self._own, 1) * (2 * spread) - spread)[:, :, None, None]
        channels = [self.look(c, max(0.0, c - 0.35), min(1.0, c + 0.35)) for c in (red, green, blue)]
        return torch.stack(channels, dim=1) * (1 + self.uniform(-spread, spread)[:, None])


@lru_cache(maxsize=4)
def _atlas_on_cpu() -> Tensor:
    """Bake the noise atlas `(5, N, N)`; always on the CPU, so that devices agree."""
    generator = torch.Generator().manual_seed(20260)
    n = ATLAS_SIZE

    def lattice(cells: int) -> Tensor:
        grid = torch.randn(1, 1, cells, cells, generator=generator)
        wide = F.pad(grid, (3, 3, 3, 3), mode="circular")
        step = n // cells
        big = F.interpolate(wide, scale_factor=step, mode="bicubic", align_corners=False)
        return big[0, 0, 3 * step : 3 * step + n, 3 * step : 3 * step + n]

    def fbm(octaves: tuple[int, ...], decay: float) -> Tensor:
        total = sum((decay**i * lattice(c) for i, c in enumerate(octaves)), start=torch.zeros(n, n))
        return ((total - total.mean()) / total.std()).clamp(-2.5, 2.5)

    points = torch.rand(CELLS, CELLS, 2, generator=generator) * 0.8 + 0.1
    ids = torch.rand(CELLS, CELLS, generator=generator)
    at = (torch.arange(n) + 0.5) * CELLS / n
    cell = at.floor().long()
    first, second, owner = torch.full((n, n), 9.0), torch.full((n, n), 9.0), torch.zeros(n, n)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rows, cols = (cell + dy)[:, None], (cell + dx)[None]
            site = points[rows % CELLS, cols % CELLS]
            d = (cols + site[..., 0] - at[None]).square() + (rows + site[..., 1] - at[:, None]).square()
            owner = torch.where(d < first, ids[rows % CELLS, cols % CELLS], owner)
            second = torch.minimum(second, torch.maximum(first, d))
            first = torch.minimum(first, d)
    edge = second.sqrt() - first.sqrt()
    return torch.stack(
        [
            fbm((8, 16, 32, 64, 128), 0.6),
            fbm((64, 128, 256), 0.8),
            edge,
            owner,
            torch.randn(n, n, generator=generator),
        ]
    )


@lru_cache(maxsize=8)
def noise_atlas(device: torch.device) -> Tensor:
    """Fixed noise `(5, N, N)`: soft and fine fractal noise, Voronoi edge distance, Voronoi cell number, white noise."""
    return _atlas_on_cpu().to(device)


def sample_plane(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read `plane` `(N, N)` bilinearly at `x, y` `(B, H, W)` in `[-1, 1]`, mirrored beyond; returns `(B, H, W)`."""
    grid = torch.stack([x, y], dim=-1)
    source = plane[None, None].expand(len(grid), 1, -1, -1)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[:, 0]


def noise(draw: Draw, channel: int, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """Noise at the points `x, y`, a fresh place of the atlas for each image; at scale 1, 240 pixels are 240 texels."""
    step = scale * 240 / ATLAS_SIZE
    plane = noise_atlas(x.device)[channel]
    return sample_plane(plane, x * step + draw.uniform(-1, 1), y * step + draw.uniform(-1, 1))


def window(draw: Draw, channel: int, size: int) -> Tensor:
    """A window `(B, size, size)` of the noise atlas per image, aligned with the pixels; cheaper than `noise`."""
    plane = noise_atlas(draw.keys.device)[channel]
    top, left = (draw.uniforms(2) * (ATLAS_SIZE - size)).long().unbind(1)
    if plane.device.type == "cpu":  # five times faster there; elsewhere it would wait for the device
        corners = zip(top.tolist(), left.tolist(), strict=True)
        return torch.stack([plane[y : y + size, x : x + size] for y, x in corners])
    return plane.unfold(0, size, 1).unfold(1, size, 1)[top, left]


def radius(x: Tensor, y: Tensor) -> Tensor:
    """Distance from the origin (not `torch.hypot`, which is several times slower)."""
    return (x * x + y * y).sqrt()


def angle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Polar angle in `(-pi, pi]` by the half-angle formula; see the module text for why not `torch.atan2`."""
    return torch.atan((y + 1e-12) / (r + x)) * 2


def box(x: Tensor, y: Tensor, half_width: float | Tensor, half_height: float | Tensor) -> Tensor:
    """Signed (chessboard) distance to an axis-aligned box."""
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def round_box(x: Tensor, y: Tensor, half_width: float | Tensor, half_height: float | Tensor, corner: float) -> Tensor:
    """Signed distance to a box with rounded corners."""
    dx, dy = x.abs() - (half_width - corner), y.abs() - (half_height - corner)
    return radius(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - corner


def fract(x: Tensor) -> Tensor:
    """Fractional part."""
    return x - x.floor()


def ramp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, linear between (`high` may be below `low`)."""
    return ((x - low) / (high - low)).clamp(0, 1)


def blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Mix colours `(B, 3, H, W)` or `(B, 3, 1, 1)` by a weight `(B, H, W)`: 0 gives `a`, 1 gives `b`."""
    return torch.addcmul(a, b - a, weight[:, None])


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` by ascending, distinct positions; `x` itself, not a copy, where that is all of them."""
    return x if len(index) == len(x) else x[index]


@dataclass
class Scene:
    """What the eye of the renderer sees, before light.

    Attributes:
        albedo: Surface colour `(B, 3, H, W)` in `[0, 1]`, defined everywhere, also outside the outline.
        relief: Height of the surface `(B, H, W)`, without the rounding of the rim.
        outline: Signed distance `(B, H, W)` to the solid; constantly -1 for a material that fills the picture.
        backdrop: Colour `(B, 3, H, W)` behind the solid.
        bevel: Width of the rounded rim `(B, 1, 1)`.
        gloss: Strength of the highlight `(B, 1, 1)`.
        over: Coverage `(B, H, W)` in `[0, 1]` of something lying on top, or None.
        over_colour: Its colour `(B, 3, 1, 1)`.
    """

    albedo: Tensor
    relief: Tensor
    outline: Tensor
    backdrop: Tensor
    bevel: Tensor
    gloss: Tensor
    over: Tensor | None = None
    over_colour: Tensor | None = None

    def take(self, index: Tensor) -> Scene:
        """Return the chosen images, in ascending order, of a scene without anything on top."""
        return Scene(
            albedo=pick(self.albedo, index),
            relief=pick(self.relief, index),
            outline=pick(self.outline, index),
            backdrop=pick(self.backdrop, index),
            bevel=pick(self.bevel, index),
            gloss=pick(self.gloss, index),
        )

    def carve(self, sdf: Tensor) -> Scene:
        """Remove the solid inside `sdf`; the backdrop shows."""
        return replace(self, outline=torch.maximum(self.outline, -sdf))


@dataclass
class Light:
    """How a picture is taken: one distant lamp from the upper left, exposure, sensor noise.

    Attributes:
        x: Direction to the lamp `(B, 1, 1)`, with `y` and `z` of unit length.
        y: See `x`.
        z: See `x`.
        exposure: Brightness `(B, H, W)`, with a slight gradient over the picture.
        noise: Sensor noise `(B, H, W)`.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    exposure: Tensor
    noise: Tensor

    @classmethod
    def drawn(cls, draw: Draw, size: int) -> Light:
        """Draw the light of pictures of the given side."""
        u = draw.uniforms(6)[:, :, None, None]
        azimuth, tilt = u[:, 0] * 0.6 - 2.7, u[:, 1] * 0.2 + 0.6
        axis = (torch.arange(size, device=u.device) + 0.5) * (2 / size) - 1
        slope_x, slope_y = u[:, 3] * 0.1 - 0.05, u[:, 4] * 0.1 - 0.05
        return cls(
            x=torch.cos(azimuth) * tilt,
            y=torch.sin(azimuth) * tilt,
            z=(1 - tilt * tilt).sqrt(),
            exposure=u[:, 2] * 0.1 + 0.95 + slope_x * axis + slope_y * axis[:, None],
            noise=window(draw, GRAIN, size) * (u[:, 5] * 0.006 + 0.006),
        )

    def take(self, index: Tensor) -> Light:
        """Return the light of the chosen images, in ascending order."""
        return Light(*(pick(getattr(self, f.name), index) for f in fields(self)))


def light_scene(scene: Scene, light: Light) -> Tensor:
    """Light a scene and take its picture: diffuse light, highlight, contact shadow beside the solid.

    Args:
        scene: What to light.
        light: The light.

    Returns:
        Pictures `(B, 3, H, W)`, uint8.
    """
    pixel = 2 / scene.outline.shape[-1]
    lx, ly, lz, exposure = light.x, light.y, light.z, light.exposure

    rim = (-scene.outline / scene.bevel).clamp(0, 1)
    height = scene.relief + rim * (2 - rim) * scene.bevel * 0.5
    padded = F.pad(height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * (0.5 / pixel)
    gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * (0.5 / pixel)
    steep = (gx * gx + gy * gy + 1).rsqrt()
    lean = gx * lx + gy * ly
    diffuse = ((lz - lean) * steep).clamp(min=0)
    # half-way vector between the lamp and the viewer straight above
    norm = (2 + 2 * lz).rsqrt()
    shine = ((lz + 1 - lean) * (steep * norm)).clamp(min=0)
    for _ in range(5):
        shine = shine.square_()
    shade = (0.35 + diffuse * (0.65 / 0.714)) * exposure

    coverage = (0.5 - scene.outline / pixel).clamp(0, 1)
    shadow = torch.exp(scene.outline.clamp(min=0) * -16) * -0.55 + 1
    # coverage is multiplied in early, on single planes: the three colour planes are what costs time here
    picture = scene.albedo * (shade * coverage)[:, None]
    picture.addcmul_(scene.backdrop, (shadow * exposure * (1 - coverage))[:, None])
    over = torch.zeros_like(coverage[:, :1, :1])
    if scene.over is not None and scene.over_colour is not None:
        over = scene.over
        picture = blend(picture, scene.over_colour * exposure[:, None], scene.over)
    picture += (light.noise + shine * scene.gloss * coverage * (1 - over))[:, None]
    return picture.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
