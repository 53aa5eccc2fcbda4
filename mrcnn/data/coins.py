"""Photographs of coins on dark ground, drawn: what the demo model learns from.

The look is that of an old grey museum photograph: strong uneven light, coins with a rim, worn relief and an
irregular outline, little contrast in places, dust, film grain.
"""

import numpy as np
import numpy.typing as npt

from mrcnn.data.drawing import (
    Array,
    Draws,
    Mask,
    coverage,
    offsets,
    radius_of,
    slope,
    smoothstep,
    soften,
    to_bytes,
)

CLASSES = ("coin",)

# Radii in pixels. Inference should bring coins to this size: see the resize rule of the demo checkpoint.
_TYPICAL_RADIUS = (13.0, 38.0)
_MAX_COINS = 40


def draw(draws: Draws, height: int, width: int) -> tuple[npt.NDArray[np.uint8], Mask, list[int]]:
    """An image (height, width, 3) uint8, the masks (N, height, width) of its coins, their labels."""
    light = draws.unit_vector()
    picture = _ground(draws, height, width)
    masks: list[Mask] = []
    bulge = draws.uniform(0.0, 0.25)
    contrast = draws.uniform(0.12, 0.5)
    for cy, cx, radius in _layout(draws, height, width):
        mask = _coin(
            draws, picture, light, cy, cx, radius, bulge=bulge, contrast=contrast * draws.uniform(0.6, 1.4)
        )
        # Where coins touch, the later one lies on top.
        masks = [below & ~mask for below in masks]
        masks.append(mask)
    picture = soften(picture, draws.uniform(0.2, 1.0))
    picture = picture + draws.grain(height, width) * draws.uniform(0.003, 0.03)
    grey = to_bytes(soften(picture, draws.uniform(0.0, 0.6)))
    kept = [mask for mask in masks if mask.sum() >= 16]
    stack = np.stack(kept) if kept else np.zeros((0, height, width), bool)
    return np.repeat(grey[:, :, None], 3, axis=2), stack, [1] * len(kept)


def _layout(draws: Draws, height: int, width: int) -> list[tuple[float, float, float]]:
    """(cy, cx, radius) of coins thrown at random, at most slightly overlapping."""
    typical = draws.uniform(*_TYPICAL_RADIUS)
    gap = draws.uniform(0.95, 1.4) if draws.chance(0.6) else 0.95
    placed: list[tuple[float, float, float]] = []
    for _ in range(draws.choice((4, 15, 60, 150, 150))):
        radius = typical * draws.uniform(0.72, 1.4)
        # A centre outside the picture by a fifth of the radius still leaves more than a third of the coin.
        cy = draws.uniform(-0.2 * radius, height + 0.2 * radius)
        cx = draws.uniform(-0.2 * radius, width + 0.2 * radius)
        apart = all(
            (cy - y) * (cy - y) + (cx - x) * (cx - x) > ((radius + r) * gap) * ((radius + r) * gap)
            for y, x, r in placed
        )
        if apart and len(placed) < _MAX_COINS:
            placed.append((cy, cx, radius))
    return placed


def _ground(draws: Draws, height: int, width: int) -> Array:
    """Dark cloth under strong uneven light, with stains, dust, scratches and a dark photo corner."""
    dy, dx = offsets(height, width, height / 2, width / 2)
    towards = draws.unit_vector()
    ramp = (dy * (towards[0] / height) + dx * (towards[1] / width)) + 0.5
    glow = smoothstep(ramp) if draws.chance(0.5) else np.clip(ramp, 0.0, 1.0)
    dark = draws.uniform(0.03, 0.25)
    ground = dark + glow * draws.uniform(0.0, 0.45)
    ground = ground + (draws.clouds(height, width, draws.uniform(60, 160)) - 0.5) * draws.uniform(0.0, 0.25)
    ground = ground + (draws.clouds(height, width, draws.uniform(8, 40)) - 0.5) * draws.uniform(0.0, 0.08)
    ground = ground + (draws.clouds(height, width, draws.uniform(1.5, 4)) - 0.5) * draws.uniform(0.0, 0.08)
    for _ in range(draws.integer(0, 25)):
        _speck(draws, ground)
    if draws.chance(0.4):
        _dark_corner(draws, ground)
    return np.clip(ground, 0.01, 0.75)


def _speck(draws: Draws, ground: Array) -> None:
    height, width = ground.shape
    dy, dx = offsets(height, width, draws.uniform(0, height), draws.uniform(0, width))
    size = draws.uniform(0.5, 1.8)
    ground += coverage(size - radius_of(dy, dx)) * draws.uniform(-0.15, 0.35)


def _dark_corner(draws: Draws, ground: Array) -> None:
    """The rounded edge of the photograph: black outside a large circle, on one side."""
    height, width = ground.shape
    towards = draws.unit_vector()
    radius = draws.uniform(0.5, 1.5) * max(height, width)
    reach = draws.uniform(0.42, 0.62)
    cy = height / 2 + towards[0] * (reach * height - radius)
    cx = width / 2 + towards[1] * (reach * width - radius)
    inside = coverage(radius - radius_of(*offsets(height, width, cy, cx)))
    ground *= inside + (1.0 - inside) * draws.uniform(0.0, 0.3)


def _coin(
    draws: Draws,
    picture: Array,
    light: tuple[float, float],
    cy: float,
    cx: float,
    radius: float,
    *,
    bulge: float,
    contrast: float,
) -> Mask:
    """Paints one coin into `picture` and returns its mask, (H, W) bool."""
    height, width = picture.shape
    reach = radius * 1.35 + 4
    top, bottom = max(0, int(cy - reach)), min(height, int(cy + reach) + 1)
    left, right = max(0, int(cx - reach)), min(width, int(cx + reach) + 1)
    window = picture[top:bottom, left:right]
    dy, dx = offsets(bottom - top, right - left, cy - top, cx - left)
    depth, rho = _outline(draws, dy, dx, radius)
    surface = _relief(draws, depth, rho, radius)
    shade = slope(surface, light) * -draws.uniform(0.15, 0.6)
    shade = np.clip(shade, -0.4, 0.45)

    # A worn coin is a bit brighter or darker towards the light.
    tilt = (dy * light[0] + dx * light[1]) * (bulge / radius)
    around = float(window[window.shape[0] // 2, window.shape[1] // 2])
    base = min(0.92, max(0.22, around * draws.uniform(0.4, 1.0) + contrast))
    face = base * (1.0 + tilt + shade)
    face = face + draws.grain(*depth.shape) * draws.uniform(0.005, 0.05)

    _shadow(draws, window, depth, light)
    alpha = coverage(depth)
    window += (np.clip(face, 0.02, 1.0) - window) * alpha
    mask = np.zeros(picture.shape, bool)
    mask[top:bottom, left:right] = depth >= 0
    return mask


def _outline(draws: Draws, dy: Array, dx: Array, radius: float) -> tuple[Array, Array]:
    """Per pixel: the depth inside the edge in pixels, and the distance from the centre, 1 at the edge.

    The outline is a circle with a few harmonics of the angle, and sometimes a straight or ragged cut.
    """
    distance = radius_of(dy, dx) + 1e-6
    height, width = distance.shape
    cosine, sine = dx / distance, dy / distance
    bend = np.ones(distance.shape)
    ck, sk = cosine, sine
    roughness = draws.uniform(0.0, 0.09)
    for order in range(2, 8):
        ck, sk = ck * cosine - sk * sine, sk * cosine + ck * sine  # cos and sin of order × angle
        size = roughness * draws.uniform(0.2, 1.5) / order
        a, b = draws.unit_vector()
        bend = bend + (ck * a + sk * b) * size
    edge = bend * radius
    depth = edge - distance
    if draws.chance(0.35):
        ny, nx = draws.unit_vector()
        cut = draws.uniform(0.82, 0.97) * radius
        ragged = (draws.clouds(height, width, draws.uniform(3, 6)) - 0.5) * draws.uniform(0.0, 3.0)
        depth = np.minimum(depth, cut - (dy * ny + dx * nx) + ragged)
    return depth, distance / edge


def _relief(draws: Draws, depth: Array, rho: Array, radius: float) -> Array:
    """The height of the coin's surface in pixels: rim, ring of beads, embossed figure, wear."""
    height, width = depth.shape
    surface = np.clip(depth, 0.0, 2.0) * draws.uniform(0.2, 1.2)
    surface = surface + (1.0 - rho * rho) * (radius * draws.uniform(0.0, 0.12))
    surface = surface + _ridge(rho, draws.uniform(0.9, 0.96), draws.uniform(0.03, 0.1)) * draws.uniform(
        0, 1.5
    )
    if draws.chance(0.5):
        ring = _ridge(rho, draws.uniform(0.74, 0.9), draws.uniform(0.03, 0.06))
        beads = draws.clouds(height, width, 2.5) if draws.chance(0.6) else np.ones(depth.shape)
        surface = surface + ring * beads * draws.uniform(0.3, 1.5)
    field = smoothstep((draws.uniform(0.7, 0.95) - rho) * 6.0)
    for cell in (radius * draws.uniform(0.4, 0.8), radius * draws.uniform(0.2, 0.4)):
        figure = draws.clouds(height, width, cell) - draws.uniform(0.3, 0.6)
        surface = surface + smoothstep(figure * draws.uniform(3, 12) + 0.5) * field * draws.uniform(0.0, 4.0)
    for cell in (radius * 0.3, radius * 0.15, 2.0):
        size = draws.uniform(0.0, 0.4) * (cell + 1.0)
        surface = surface + (draws.clouds(height, width, max(cell, 1.5)) - 0.5) * field * size
    return surface


def _ridge(rho: Array, centre: float, width: float) -> Array:
    """A ring of height 1 at relative radius `centre`."""
    across = (rho - centre) / width
    return np.clip(1.0 - across * across, 0.0, 1.0)


def _shadow(draws: Draws, window: Array, depth: Array, light: tuple[float, float]) -> None:
    """Darkens the ground beside the coin, more on the side away from the light."""
    soft = draws.uniform(1.5, 6.0)
    near = smoothstep(1.0 + depth / soft)
    lee = np.clip(0.5 + slope(depth, light) * 0.5, 0.0, 1.0)
    window *= 1.0 - near * lee * draws.uniform(0.0, 0.6)
