"""The outer face as one regular grid: photons shared out over cells and pooled in photon space, times averaged.

Shape suffixes: see `xectrain.models.blocks`; here H×W is the pooled grid and S the sensors that share one pooled cell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization

MARGIN_PHOTONS = 1e-6
"""Kept above the domain minimum, where the derivative of a square-root transform is infinite."""


class OuterGrid(nn.Module):
    """Normalized values of the 234 outer sensors on the 72×45 fine grid, pooled to H×W cells.

    A cell carries its sensor's photons divided by the cells the sensor owns; a pooled cell the sum over its unmasked
    cells and the mean of their valid times. It is masked where all its cells are. Partial cells are not rescaled.
    """

    sensor_PS: Tensor
    photon_share_PS: Tensor
    cells_PS: Tensor

    def __init__(self, pool: tuple[int, int], normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization
        self.channels = geo.face_channels("outer")
        fine = np.searchsorted(self.channels, geo.outer_fine_grid())
        self.shape = (fine.shape[0] // pool[0], fine.shape[1] // pool[1])
        blocks = fine.reshape(self.shape[0], pool[0], self.shape[1], pool[1]).transpose(0, 2, 1, 3)
        sensor, cells = _distinct(blocks.reshape(-1, pool[0] * pool[1]))
        owned = geo.outer_fine_cells()[self.channels]
        self.register_buffer("sensor_PS", torch.from_numpy(sensor), persistent=False)
        self.register_buffer("cells_PS", torch.from_numpy(cells).float(), persistent=False)
        self.register_buffer("photon_share_PS", torch.from_numpy(cells / owned[sensor]).float(), persistent=False)

    def forward(
        self, npho_BO: Tensor, time_BO: Tensor, time_valid_BO: Tensor, keep_BO: Tensor, no_time: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Share out and pool. Gathers and sums only, no matrix product: those are rounded to TF32 or bfloat16.

        Args:
            npho_BO, time_BO: float32, normalized; masked ones may hold anything finite.
            time_valid_BO: bool, false for masked sensors.
            keep_BO: bool, true for visible sensors.
            no_time: the time of a visible cell none of whose sensors has a valid time.

        Returns:
            npho, time (float32) and keep (bool), each (B, H·W); masked cells are 0.
        """
        zero = torch.zeros_like(npho_BO)
        photons_BO = torch.where(keep_BO, self.normalization.inverse_npho(torch.where(keep_BO, npho_BO, zero)), zero)
        photons_BP = (photons_BO[:, self.sensor_PS] * self.photon_share_PS).sum(dim=-1)
        keep_BP = (keep_BO[:, self.sensor_PS] & (self.cells_PS > 0)).any(dim=-1)
        lowest = max(self.normalization.domain_minimum + MARGIN_PHOTONS, -3e38)
        safe_BP = torch.where(keep_BP, photons_BP.clamp(min=lowest), torch.ones_like(photons_BP))
        npho_BP = torch.where(keep_BP, self.normalization.forward_npho(safe_BP), torch.zeros_like(safe_BP))
        timed_BPS = time_valid_BO[:, self.sensor_PS] * self.cells_PS
        count_BP = timed_BPS.sum(dim=-1)
        sum_BP = (torch.where(time_valid_BO, time_BO, zero)[:, self.sensor_PS] * timed_BPS).sum(dim=-1)
        time_BP = torch.where(count_BP > 0, sum_BP / count_BP.clamp(min=1), torch.full_like(sum_BP, no_time))
        return npho_BP, torch.where(keep_BP, time_BP, torch.zeros_like(time_BP)), keep_BP


def _distinct(owner_PX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct owners of each row and how many of its cells each has, padded with (0, 0 cells) to equal length."""
    rows = [np.unique(row, return_counts=True) for row in owner_PX]
    width = max(len(owners) for owners, _ in rows)
    sensor = np.zeros((len(rows), width), dtype=np.int64)
    cells = np.zeros((len(rows), width), dtype=np.int64)
    for p, (owners, counts) in enumerate(rows):
        sensor[p, : len(owners)], cells[p, : len(owners)] = owners, counts
    return sensor, cells
