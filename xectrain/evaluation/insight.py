"""What a regressor looks at: gradients, faces hidden one at a time, attention; and the events it gets most wrong.

Shape suffixes: B events, N = 4760 sensors, F = 6 faces, T tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError, progress
from shards.identity import IDENTITY
from xectrain.evaluation.results import Insight, WorstEvent
from xectrain.inference.events import Events
from xectrain.inference.regressor import TorchPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.metrics import residual
from xectrain.models.regressor import Regressor
from xectrain.models.sensors import hide
from xectrain.modes.regress import Regress
from xectrain.tasks import TASKS

Array = NDArray[np.float64]

EVENTS = 256
"""Events that gradients, hidden faces and attention are averaged over."""
WORST = 5


@dataclass
class WorstEvents:
    """Keeps the events with the largest loss while a sample streams by."""

    spread: Mapping[str, float]
    """Of each predicted column over the training set."""
    keep: int = WORST
    _heap: list[tuple[float, int, WorstEvent]] = field(default_factory=list)
    _count: int = 0

    def add(self, events: Events, table: Mapping[str, NDArray[Any]], predictor: TorchPredictor) -> None:
        """Take in a chunk and its rows of the prediction table."""
        terms = [
            (residual(c, table[f"pred_{c}"], table[f"true_{c}"]) / spread) ** 2
            for c, spread in self.spread.items()
            if f"true_{c}" in table and spread > 0
        ]
        if not terms:
            return
        loss = np.nan_to_num(np.mean(terms, axis=0), nan=-1.0)
        bar = self._heap[0][0] if len(self._heap) == self.keep else -0.5
        rows = [int(i) for i in np.argsort(-loss)[: self.keep] if loss[i] > bar]
        if not rows:
            return
        physical = events.photons(predictor.facts.normalization)
        for i in rows:
            values = {n: v[i].item() for n, v in table.items() if n in IDENTITY or n[:5] in ("true_", "pred_")}
            self._count += 1
            event = WorstEvent(float(loss[i]), physical.npho[i].copy(), physical.time[i].copy(), values)
            heapq.heappush(self._heap, (event.loss, self._count, event))
            if len(self._heap) > self.keep:
                heapq.heappop(self._heap)

    def worst(self) -> list[WorstEvent]:
        """The worst first."""
        return [event for _, _, event in sorted(self._heap, key=lambda item: -item[0])]


def network_of(predictor: TorchPredictor) -> Regressor:
    """The regressor behind a prediction.

    Raises:
        ConfigError: the model is another network, whose inside is not known.
    """
    if not isinstance(predictor.mode, Regress):
        raise ConfigError(
            "is not a regressor, so its inside is not known", file=predictor.facts.file, found=predictor.facts.mode
        )
    return predictor.mode.model


def spreads(predictor: TorchPredictor) -> dict[str, float]:
    """Spread of each predicted quantity over the training set, classes left out."""
    network = network_of(predictor)
    return {
        column: float(network.standardization.physical_spread(name)[k])
        for name in network.tasks
        if TASKS[name].kind != "classes"
        for k, column in enumerate(TASKS[name].columns)
    }


def look_inside(predictor: TorchPredictor, part: Part, settings: ReadOptions, events: int = EVENTS) -> Insight:
    """Average gradients, the effect of hidden faces, and attention over the first events of a part."""
    columns = tuple(spreads(predictor))
    scale = np.array(list(spreads(predictor).values()))
    wanted = Wanted(min(predictor.batch_size, 32), predictor.device, predictor.facts.normalization)
    saliency = np.zeros((len(columns), len(geo.FACE_NAMES), 2))
    importance = np.zeros((len(columns), len(geo.FACE_NAMES)))
    attention: Array | None = None
    done = 0
    with progress("what the network looks at", min(events, part.events)) as bar:
        for chunk in part.read(wanted, settings):
            x_BN2, mask_BN = predictor.model_input(chunk)
            saliency += _saliency(predictor, columns, x_BN2, mask_BN)
            importance += _importance(predictor, columns, x_BN2, mask_BN)
            with torch.inference_mode():
                weights = network_of(predictor).encoder.attention(x_BN2, mask_BN)  # (B, layers, heads, T, T)
            summed = weights.float().mean(dim=2).sum(dim=0).double().cpu().numpy()
            attention = summed if attention is None else attention + summed
            done += len(x_BN2)
            bar.advance(len(x_BN2))
            if done >= events:
                break
    tokens = tuple(str(token.name) for token in network_of(predictor).encoder.tokens)
    mean_attention = np.zeros((0, len(tokens), len(tokens))) if attention is None else attention / max(done, 1)
    per_event = saliency / max(done, 1) / scale[:, None, None]
    return Insight(
        done, columns, per_event, np.sqrt(importance / max(done, 1)) / scale[:, None], mean_attention, tokens
    )


def _saliency(predictor: TorchPredictor, columns: tuple[str, ...], x_BN2: Tensor, mask_BN: Tensor) -> Array:
    """Sum over events of mean |gradient| · spread of the input, per column, face and channel."""
    x_BN2 = x_BN2.detach().clone().requires_grad_(True)
    found = network_of(predictor).predict(x_BN2, mask_BN)
    keep_BN = (~mask_BN).float()
    result = np.zeros((len(columns), len(geo.FACE_NAMES), 2))
    face_N = torch.from_numpy(geo.nominal_faces().astype(np.int64)).to(x_BN2.device)
    for row, column in enumerate(columns):
        (grad_BN2,) = torch.autograd.grad(found[f"pred_{column}"].sum(), x_BN2, retain_graph=True)
        size_BN2 = grad_BN2.abs() * keep_BN[..., None]
        for code in range(len(geo.FACE_NAMES)):
            on_face_N = face_N == code
            seen_B = keep_BN[:, on_face_N].sum(dim=1).clamp(min=1)
            mean_B2 = size_BN2[:, on_face_N].sum(dim=1) / seen_B[:, None]
            result[row, code] = mean_B2.sum(dim=0).double().cpu().numpy()
    values_BN2 = x_BN2.detach()[keep_BN > 0]
    spread_2 = values_BN2.std(dim=0).double().cpu().numpy() if len(values_BN2) > 1 else np.ones(2)
    return np.asarray(result * spread_2)


@torch.inference_mode()
def _importance(predictor: TorchPredictor, columns: tuple[str, ...], x_BN2: Tensor, mask_BN: Tensor) -> Array:
    """Sum over events of the squared change of each prediction when a face is hidden."""
    found = network_of(predictor).predict(x_BN2, mask_BN)
    result = np.zeros((len(columns), len(geo.FACE_NAMES)))
    face_N = torch.from_numpy(geo.nominal_faces().astype(np.int64)).to(x_BN2.device)
    for code in range(len(geo.FACE_NAMES)):
        hidden_BN = (face_N == code).expand_as(mask_BN) & ~mask_BN
        without = network_of(predictor).predict(*hide(x_BN2, hidden_BN, predictor.facts.normalization))
        for row, column in enumerate(columns):
            change_B = without[f"pred_{column}"] - found[f"pred_{column}"]
            result[row, code] = float(change_B.double().square().sum())
    return result
