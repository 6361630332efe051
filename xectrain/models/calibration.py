"""A quadratic form of the scene's facts, fitted once to the training set before training.

What a shower does to the light's centre, width and sum is smooth in a few numbers, and a regression learns that from a
few thousand events in a second. How much it leaves is how well a task can be known: the unit of its loss. The form
itself corrects the time's reference. Not the point's: what is then left is noise, from which a network learns nothing
for hundreds of thousands of passes, whereas on the way from the light's centre to the first interaction it learns to
read the window. Shape suffixes: see `xectrain.models.focus`; here A facts, Q terms of the form, K values of a task.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xectrain.tasks import TASKS

Array = npt.NDArray[np.float64]

ENOUGH_EVENTS = 1000
"""Fewer of them fit no form of this size: the reference stays as it is."""
EDGES = (0.005, 0.995)
"""Quantiles of the facts beyond which the form is not continued: a parabola is worthless out there."""
RIDGE = 1e-3
"""Penalty on standardized coefficients, per event."""
CUT, ROUNDS = 1.5, 5
"""Residuals beyond this many robust σ count less, and the number of rounds: wrong photons must not bend the form."""


class ReferenceCorrection(nn.Module):
    """What is added to the references; zero until it is fitted. Stored with the weights and exported.

    Args:
        tasks: names of the tasks whose reference may be corrected.
        facts: how many facts a scene has.
    """

    low_A: Tensor
    high_A: Tensor
    centre_A: Tensor
    scale_A: Tensor
    first_Q: Tensor
    second_Q: Tensor

    def __init__(self, tasks: tuple[str, ...], facts: int) -> None:
        super().__init__()
        self.tasks = tasks
        pairs = np.array(list(combinations_with_replacement(range(facts + 1), 2)))  # fact 0 is 1: all lower orders
        self.register_buffer("first_Q", torch.from_numpy(pairs[:, 0]), persistent=False)
        self.register_buffer("second_Q", torch.from_numpy(pairs[:, 1]), persistent=False)
        for name, value in (("low_A", -1e6), ("high_A", 1e6), ("centre_A", 0.0), ("scale_A", 1.0)):
            self.register_buffer(name, torch.full((facts,), value))
        for name in tasks:
            self.register_buffer(f"{name}_QK", torch.zeros(len(pairs), TASKS[name].size))

    def forward(self, name: str, facts_BA: Tensor) -> Tensor:
        """The correction of a task's reference: float32 (B, K). No matrix product: those may be rounded to TF32."""
        return (self.terms(facts_BA)[..., None] * self.get_buffer(f"{name}_QK")).sum(dim=1)

    def terms(self, facts_BA: Tensor) -> Tensor:
        """1, the facts and their products, (B, Q)."""
        known_BA = torch.minimum(torch.maximum(facts_BA, self.low_A), self.high_A)
        one_BA = torch.nn.functional.pad((known_BA - self.centre_A) / self.scale_A, (1, 0), value=1.0)
        return one_BA.index_select(1, self.first_Q) * one_BA.index_select(1, self.second_Q)

    @torch.no_grad()
    def fit(self, facts_NA: Tensor, differences: Mapping[str, Array], corrected: Container[str]) -> dict[str, Array]:
        """Fit to target − reference.

        Args:
            facts_NA: float32, of a sample of the training events.
            differences: float64 (N, K) by task; NaN without truth.
            corrected: the tasks that are corrected from now on.

        Returns:
            What the form leaves of the differences, of all tasks; with too few events the differences themselves.
        """
        if len(facts_NA) < ENOUGH_EVENTS:
            return dict(differences)
        facts = facts_NA.double().numpy()
        low, high = np.quantile(facts, EDGES, axis=0)
        for buffer, values in (
            (self.low_A, low),
            (self.high_A, high),
            (self.centre_A, facts.mean(axis=0)),
            (self.scale_A, np.maximum(facts.std(axis=0), 1e-3)),
        ):
            buffer.copy_(torch.from_numpy(values))
        design = self.terms(facts_NA).double().numpy()
        left = dict(differences)
        for name, wanted in differences.items():
            weights = np.stack([_robust(design, column) for column in wanted.T], axis=1)
            if name in corrected:
                self.get_buffer(f"{name}_QK").copy_(torch.from_numpy(weights))
            left[name] = wanted - design @ weights
        return left


def _robust(design: Array, wanted: Array) -> Array:
    """Ridge regression with residuals weighted down beyond `CUT`; events without truth are left out."""
    good = np.isfinite(wanted)
    x, y = design[good], wanted[good]
    middle = float(np.median(y)) if len(y) else 0.0  # the penalty must not affect an offset
    y = y - middle
    weight: Array = np.ones(len(y))
    penalty = RIDGE * len(y) * np.eye(x.shape[1])
    coefficients: Array = np.zeros(x.shape[1])
    for _ in range(ROUNDS if len(y) >= ENOUGH_EVENTS else 0):
        weighted = x * weight[:, None]
        coefficients = np.asarray(np.linalg.solve(weighted.T @ x + penalty, weighted.T @ y), dtype=np.float64)
        residual = np.abs(y - x @ coefficients)
        sigma = max(1.48 * float(np.median(residual)), 1e-9)
        weight = 1 / np.maximum(1, residual / (CUT * sigma))
    coefficients[0] += middle
    return coefficients
