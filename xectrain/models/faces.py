"""How the faces lie in the network: grids, which sensors they read, and the tokens they become.

Everything is derived from `shards.geometry`; nothing here knows a channel number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shards import geometry as geo
from xectrain.config.networks import EncoderConfig

CELLS = 4
"""A token is CELLS×CELLS pooled cells of the backbone's second stage, 2·CELLS×CELLS of its first."""


@dataclass(frozen=True)
class RectangularMap:
    """Faces of equal grid that go through the backbone as one batch."""

    name: str
    faces: tuple[str, ...]
    """The faces stacked along the batch axis."""
    grids: tuple[np.ndarray, ...]
    """Channels on each face's grid, int32 (H, W); of the outer fine grid the owners of the unpooled cells."""
    shape: tuple[int, int]
    """Rows and columns the backbone sees."""
    blocks: tuple[int, int]
    """The face is cut into this many tokens along rows and columns."""


@dataclass(frozen=True)
class TokenInfo:
    """One token of the encoder's output."""

    name: str
    """"inner.0", "outer", "outer_centre", "top", "inner.0/fine" …"""
    face: str
    """The detector face it belongs to."""
    stage: int
    """The backbone stage it was pooled from: 2, or 1 for the tokens that `multiscale` adds."""
    channels: np.ndarray
    """Channels of the sensors it summarizes (before the receptive field widens it)."""


def rectangular_maps(config: EncoderConfig) -> list[RectangularMap]:
    """The backbone's batches: inner; outer fine grid, or coarse grid and centre patch; both ends together."""

    def single(name: str, face: str, grid: np.ndarray, shape: tuple[int, int]) -> RectangularMap:
        return RectangularMap(name, (face,), (grid,), shape, (1, 1))

    inner = geo.face_grid("inner")
    shape = (inner.shape[0], inner.shape[1])
    maps = [RectangularMap("inner", ("inner",), (inner,), shape, token_blocks(config.inner_tokens, shape))]
    if config.outer == "finegrid":
        fine = geo.outer_fine_grid()
        rows, columns = config.outer_pool
        maps.append(single("outer", "outer", fine, (fine.shape[0] // rows, fine.shape[1] // columns)))
    else:
        for name in ("outer_coarse", "outer_centre"):
            grid = geo.face_grid(name)
            maps.append(single(name, "outer", grid, (grid.shape[0], grid.shape[1])))
    ends = (geo.face_grid("upstream"), geo.face_grid("downstream"))
    shape = (ends[0].shape[0], ends[0].shape[1])
    maps.append(RectangularMap("ends", ("upstream", "downstream"), ends, shape, (1, 1)))
    return maps


def token_blocks(tokens: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Cut a face into `tokens` blocks, rows × columns, as nearly square as the number allows."""
    pairs = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    return min(pairs, key=lambda pair: abs(math.log(shape[0] / pair[0] / (shape[1] / pair[1]))))


def token_table(config: EncoderConfig) -> list[TokenInfo]:
    """The tokens in order: the rectangular maps', top, bottom, then first-stage tokens if `multiscale`, then the
    focus."""
    focus = [TokenInfo(f"focus.{k}", "inner", 2, geo.face_channels("inner")) for k in range(focus_tokens(config))]
    if config.inner_resolution > 1:
        return [*(TokenInfo(face, face, 2, geo.face_channels(face)) for face in geo.FACE_NAMES), *focus]
    maps = rectangular_maps(config)
    second = [token for m in maps for token in _map_tokens(m, 2)]
    hexagonal = [TokenInfo(face, face, 2, geo.hexagon(face).nodes) for face in ("top", "bottom")]
    first = [token for m in maps for token in _map_tokens(m, 1)] if config.multiscale else []
    return [*second, *hexagonal, *first, *focus]


def focus_tokens(config: EncoderConfig) -> int:
    """Tokens of the focus."""
    return config.focus_tokens if config.focus else 0


def _map_tokens(m: RectangularMap, stage: int) -> list[TokenInfo]:
    tokens = []
    for face, grid in zip(m.faces, m.grids, strict=True):
        base = face if len(m.faces) > 1 else m.name
        parts = [
            part for band in np.array_split(grid, m.blocks[0]) for part in np.array_split(band, m.blocks[1], axis=1)
        ]
        for k, part in enumerate(parts):
            name = f"{base}.{k}" if len(parts) > 1 else base
            tokens.append(TokenInfo(name + ("/fine" if stage == 1 else ""), face, stage, np.unique(part)))
    return tokens
