# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo images are drawn with: random numbers, noise, signed distances, scenes and their light.

Planes are `(H, W)`; an image spans `[-1, 1]` in x and y; signed distances are negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, reduce
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK = 0xFFFFFFFF
_ATLAS_SIZE = 1024
_CELLS = 64  # Voronoi cells along one side of the atlas

FBM, FINE, CELL_EDGE, CELL_ID, GRAIN = range(5)  # channels of `noise_atlas`


def _mix(x: int) -> int:
    """Scramble a 32-bit integer (the "lowbias32" hash with its improved constants)."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


class Draw:
    """Random numbers of one image: a hash of its key, a stream and a counter.

    Args:
        key: Two integers in `[0, 2^32)` that name the image.
        style_key: The same for the product; None for the product as designed.
        stream: Namespace of the counter; the same stream of the same image always repeats the same numbers.
    """

    def __init__(self, key: tuple[int, int], style_key: tuple[int, int] | None = None, stream: int = 0) -> None:
        self.key, self.style_key, self.stream = key, style_key, stream
        self._counter = 0

    def child(self, stream: int) -> Draw:
        """Return an independent generator that starts its own count."""
        return Draw(self.key, self.style_key, self.stream * 64 + stream + 1)

    def uniforms(self, n: int, key: tuple[int, int] | None = None) -> Tensor:
        """`(n,)` uniform numbers in `[0, 1)`, exact in single precision; of the image, or of another `key`."""
        key = key or self.key
        self._counter += 1
        word = _mix(_mix(key[0] ^ _mix(self.stream * 0x2545F491 & _MASK)) ^ key[1])
        positions = [(self._counter * 4096 + element) * 0x1E3779B1 & _MASK for element in range(n)]
        return torch.tensor([(_mix(word ^ _mix(position)) >> 8) * 2.0**-24 for position in positions])

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Uniform number in `[low, high)`, a scalar tensor."""
        return self.uniforms(1)[0] * (high - low) + low

    def sign(self) -> Tensor:
        """-1 or 1."""
        return (self.uniform(0, 1) < 0.5).float() * 2 - 1

    def look(self, default: float, low: float, high: float) -> Tensor:
        """A trait of the product: `default` as designed, otherwise in `[low, high)` and decided by the style alone."""
        drawn = self.uniforms(1, self.style_key)[0] * (high - low) + low
        return torch.tensor(float(default)) if self.style_key is None else drawn

    def colour(self, red: float, green: float, blue: float, spread: float = 0.02) -> Tensor:
        """A product colour in `[0, 1]` with slight variation of brightness between images, shape `(3, 1, 1)`."""
        channels = [self.look(c, max(0.0, c - 0.35), min(1.0, c + 0.35)) for c in (red, green, blue)]
        return torch.stack(channels).view(3, 1, 1) * (1 + self.uniform(0, 2 * spread) - spread)


@cache
def noise_atlas() -> Tensor:
    """Fixed noise `(5, N, N)`: soft and fine fractal noise, Voronoi edge distance, Voronoi cell number, white noise."""
    generator = torch.Generator().manual_seed(20260)
    n = _ATLAS_SIZE

    def lattice(cells: int) -> Tensor:
        wide = F.pad(torch.randn(1, 1, cells, cells, generator=generator), (3, 3, 3, 3), mode="circular")
        inside = slice(3 * n // cells, 3 * n // cells + n)
        return F.interpolate(wide, scale_factor=n // cells, mode="bicubic")[0, 0, inside, inside]

    def fbm(octaves: tuple[int, ...], decay: float) -> Tensor:
        total = sum((decay**i * lattice(c) for i, c in enumerate(octaves)), start=torch.zeros(n, n))
        return ((total - total.mean()) / total.std()).clamp(-2.5, 2.5)

    points = torch.rand(_CELLS, _CELLS, 2, generator=generator) * 0.8 + 0.1
    ids = torch.rand(_CELLS, _CELLS, generator=generator)
    at = (torch.arange(n) + 0.5) * _CELLS / n
    cell = at.floor().long()
    first, second, owner = torch.tensor([9.0, 9.0, 0.0]).view(3, 1, 1).expand(3, n, n)
    for dy, dx in product((-1, 0, 1), repeat=2):
        rows, cols = (cell + dy)[:, None], (cell + dx)[None]
        site = points[rows % _CELLS, cols % _CELLS]
        d = (cols + site[..., 0] - at[None]).square() + (rows + site[..., 1] - at[:, None]).square()
        owner = torch.where(d < first, ids[rows % _CELLS, cols % _CELLS], owner)
        first, second = torch.minimum(first, d), torch.minimum(second, torch.maximum(first, d))
    soft, fine = fbm((8, 16, 32, 64, 128), 0.6), fbm((64, 128, 256), 0.8)
    return torch.stack([soft, fine, second.sqrt() - first.sqrt(), owner, torch.randn(n, n, generator=generator)])


def sample_plane(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read `plane` `(N, N)` bilinearly at `x, y` `(H, W)` in `[-1, 1]`, mirrored beyond; returns `(H, W)`."""
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(plane[None, None], grid, padding_mode="reflection", align_corners=False)[0, 0]


def noise(draw: Draw, channel: int, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """Noise `(H, W)` at the points `x, y`, from a random place of the atlas; at scale 1, 240 pixels are 240 texels."""
    step = scale * 240 / _ATLAS_SIZE
    return sample_plane(noise_atlas()[channel], x * step + draw.uniform(-1, 1), y * step + draw.uniform(-1, 1))


def noise_window(draw: Draw, channel: int, size: int) -> Tensor:
    """A random window `(size, size)` of the atlas, aligned with the pixels; cheaper than `noise`."""
    top, left = (draw.uniforms(2) * (_ATLAS_SIZE - size)).long().tolist()
    return noise_atlas()[channel, top : top + size, left : left + size]


def axes(size: int) -> tuple[Tensor, Tensor]:
    """Coordinates `x, y` in `[-1, 1]` of the pixels of an image, both `(size, size)`."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    return axis.expand(size, size), axis[:, None].expand(size, size)


def radius(x: Tensor, y: Tensor) -> Tensor:
    """Distance from the origin (not `torch.hypot`, which is several times slower)."""
    return (x * x + y * y).sqrt()


def angle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Polar angle in `(-pi, pi]` of points at distance `r`, by the half-angle formula.

    `torch.atan2` gives another last bit at the end of a plane than within it, and so with another number of threads.
    """
    return torch.atan((y + 1e-12) / (r + x)) * 2


def box(x: Tensor, y: Tensor, half_width: float | Tensor, half_height: float | Tensor) -> Tensor:
    """Signed (chessboard) distance to an axis-aligned box."""
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def round_box(x: Tensor, y: Tensor, half_width: float | Tensor, half_height: float | Tensor, corner: float) -> Tensor:
    """Signed distance to a box with rounded corners."""
    dx, dy = x.abs() - (half_width - corner), y.abs() - (half_height - corner)
    return radius(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - corner


def coverage(sdf: Tensor) -> Tensor:
    """Antialiased coverage in `[0, 1]` of a shape by its signed distance `(H, W)`."""
    return (0.5 - sdf / (2 / sdf.shape[-1])).clamp(0, 1)


def union(*shapes: Tensor) -> Tensor:
    """Signed distance to what lies in any of the shapes."""
    return reduce(torch.minimum, shapes)


def common(*shapes: Tensor) -> Tensor:
    """Signed distance to what lies in all of the shapes."""
    return reduce(torch.maximum, shapes)


def carve(shape: Tensor, *holes: Tensor) -> Tensor:
    """Signed distance to a shape without the holes."""
    return common(shape, *(-hole for hole in holes))


def cells(x: Tensor, pitch: float | Tensor) -> tuple[Tensor, Tensor]:
    """Number of the cell of a row of cells, and the offset from its middle."""
    number = (x / pitch).floor()
    return number, x - (number + 0.5) * pitch


def zigzag(x: Tensor) -> Tensor:
    """Distance from the middle of the cells of width 1, in `[0, 0.5]`."""
    return (fract(x) - 0.5).abs()


def fract(x: Tensor) -> Tensor:
    """Fractional part."""
    return x - x.floor()


def ramp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, linear between (`high` may be below `low`)."""
    return ((x - low) / (high - low)).clamp(0, 1)


def blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Mix colours `(3, H, W)` or `(3, 1, 1)` by a weight `(H, W)`: 0 gives `a`, 1 gives `b`."""
    return torch.addcmul(a, b - a, weight)


@dataclass
class Scene:
    """Surfaces, before light."""

    albedo: Tensor  # colour (3, H, W) in [0, 1], also outside the outline
    relief: Tensor  # height (H, W), without the rounding of the rim
    outline: Tensor  # signed distance (H, W) to the solid; constantly -1 for a material that fills the image
    backdrop: Tensor  # colour (3, H, W) behind the solid
    bevel: float  # width of the rounded rim
    gloss: Tensor  # strength of the highlight, a scalar
    over: Tensor | None = None  # coverage (H, W) in [0, 1] of something lying on top
    over_colour: Tensor | None = None  # its colour (3, 1, 1)


@dataclass
class View:
    """What a function that draws a product is given: where each pixel lies on the product, and helpers."""

    x: Tensor  # product coordinate (H, W) to the right
    y: Tensor  # and downwards
    draw: Draw
    omit: Tensor | None = None  # a scalar in [0, 1) that chooses the one element to leave out

    def noise(self, channel: int, scale: float = 1.0, stretch: float = 1.0) -> Tensor:
        """Noise of the surface `(H, W)`, `stretch` times coarser along x."""
        if scale == 1 and stretch == 1:
            return noise_window(self.draw, channel, self.x.shape[-1])
        return noise(self.draw, channel, self.x / stretch, self.y, scale)

    @cached_property
    def r(self) -> Tensor:
        """Distance from the middle `(H, W)`."""
        return radius(self.x, self.y)

    @cached_property
    def theta(self) -> Tensor:
        """Polar angle `(H, W)`."""
        return angle(self.x, self.y, self.r)

    def around(self, turn: Tensor, reach: float | Tensor) -> Tensor:
        """Distance `(H, W)` from the point at polar angle `turn` and distance `reach` from the middle."""
        return radius(self.x - torch.cos(turn) * reach, self.y - torch.sin(turn) * reach)

    def omitted(self, n: int) -> Tensor:
        """Number of the element to leave out of `n`, a scalar; -1 for none."""
        return torch.tensor(-1.0) if self.omit is None else (self.omit * n).floor()

    def omitted_cell(self, columns: int, rows: int) -> tuple[Tensor, Tensor]:
        """Column and row of the element to leave out of a lattice; row -1 for none."""
        number = self.omitted(columns * rows)
        row = (number / columns).floor()
        return number - row * columns, row

    def unless_omitted(self, shape: Tensor, hidden: Tensor) -> Tensor:
        """The shape, without what lies in `hidden` if an element is to be left out."""
        return shape if self.omit is None else carve(shape, hidden)

    def matte(self, red: float, green: float, blue: float, speckle: float = 0.03) -> Tensor:
        """A plain colour with faint speckle, `(3, H, W)`."""
        return self.draw.colour(red, green, blue) * (1 + self.noise(FINE) * speckle)

    def scene(
        self,
        albedo: Tensor,
        outline: Tensor | None = None,
        backdrop: tuple[float, ...] | None = None,
        *,
        relief: Tensor | None = None,
        bevel: float = 0.05,
        gloss: float = 0.1,
    ) -> Scene:
        """Complete a scene; without an outline the material fills the image and holes in it are dark.

        The backdrop is a plain colour with faint speckle, given as the arguments of `matte`.
        """
        albedo = albedo.expand(3, *self.x.shape)
        return Scene(
            albedo=albedo,
            relief=torch.zeros_like(self.x) if relief is None else relief,
            outline=torch.full_like(self.x, -1.0) if outline is None else outline,
            backdrop=torch.tensor(0.06).expand_as(albedo) if backdrop is None else self.matte(*backdrop),
            bevel=bevel,
            gloss=self.draw.uniform(0.85, 1.15) * gloss,
        )


def light_scene(scene: Scene, draw: Draw) -> Tensor:
    """Image `(3, H, W)`, uint8: diffuse light of a lamp at the upper left, highlight, shadow beside the solid."""
    size = scene.outline.shape[-1]
    u = draw.uniforms(6)
    azimuth, tilt = u[0] * 0.6 - 2.7, u[1] * 0.2 + 0.6
    lamp_z = (1 - tilt * tilt).sqrt()  # of the direction to the lamp
    x, y = axes(size)
    exposure = u[2] * 0.1 + 0.95 + (u[3] * 0.1 - 0.05) * x + (u[4] * 0.1 - 0.05) * y

    rim = (-scene.outline / scene.bevel).clamp(0, 1)
    height = scene.relief + rim * (2 - rim) * scene.bevel * 0.5
    padded = F.pad(height[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    slope = 0.25 * size  # half the number of pixels in a unit of length
    gx = (padded[1:-1, 2:] - padded[1:-1, :-2]) * slope
    gy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) * slope
    steep = (gx * gx + gy * gy + 1).rsqrt()
    lean = gx * (torch.cos(azimuth) * tilt) + gy * (torch.sin(azimuth) * tilt)
    diffuse = ((lamp_z - lean) * steep).clamp(min=0)
    # half-way vector between the lamp and the viewer straight above
    shine = ((lamp_z + 1 - lean) * (steep * (2 + 2 * lamp_z).rsqrt())).clamp(min=0)
    for _ in range(5):
        shine = shine.square_()

    covered = coverage(scene.outline)
    shadow = torch.exp(scene.outline.clamp(min=0) * -16) * -0.55 + 1
    image = scene.albedo * ((0.35 + diffuse * (0.65 / 0.714)) * exposure * covered)
    image.addcmul_(scene.backdrop, shadow * exposure * (1 - covered))
    highlight = shine * scene.gloss * covered
    if scene.over is not None and scene.over_colour is not None:
        image = blend(image, scene.over_colour * exposure, scene.over)
        highlight = highlight * (1 - scene.over)
    image += noise_window(draw, GRAIN, size) * (u[5] * 0.006 + 0.006) + highlight
    return image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
