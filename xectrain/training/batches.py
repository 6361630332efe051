"""From the plan of an epoch to losses: this rank's micro-batches, and how a mode is given one of them."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from torch import Tensor, nn

from pipelines import Batch, Loader, open_loader
from shards.plan import RankPlan, View, epoch_order, rank_plan
from xectrain.compute import Compute
from xectrain.config.tree import Config
from xectrain.data import TrainingData
from xectrain.model_input import InputRules
from xectrain.modes.base import EventBatch, StepResult
from xectrain.training.augment import Augmentation
from xectrain.training.performance import Usage
from xectrain.training.ranks import Ranks


class Batches:
    """The events of a run as one rank sees them."""

    def __init__(self, config: Config, data: TrainingData, rules: InputRules, compute: Compute, ranks: Ranks) -> None:
        assert config.data.batch_size is not None
        self.config, self.data, self.rules, self.compute, self.ranks = config, data, rules, compute, ranks
        self.batch_size: int = config.data.batch_size
        self.epoch_events = data.epoch_events(config.data.epoch_events)
        self.epoch_steps = math.ceil(self.epoch_events / self.batch_size)
        self._augmentation = Augmentation(config.augment, rules.model, data.first.columns, config.train.seed)

    def step_events(self, step: int) -> int:
        """Events in global batch `step` of an epoch: the batch size, or what is left for the last."""
        return min(self.batch_size, self.epoch_events - step * self.batch_size)

    def steps(self, epoch: int, start_step: int, usage: Usage) -> Generator[list[Batch], None, None]:
        """The micro-batches of each remaining optimizer step of an epoch.

        Args:
            epoch: from 0.
            start_step: the first step wanted.
            usage: measures how long the loop waits for them.
        """
        order = self.data.order(self.config.train.seed, epoch, self.config.data.epoch_events)
        accum = self.config.optim.grad_accum
        plan = rank_plan(order, self.batch_size, self.ranks.rank, self.ranks.world, accum, start_step)
        with self._open(order.views, plan) as loader:
            group: list[Batch] = []
            for batch in usage.waiting(loader):
                group.append(batch)
                if len(group) == accum:
                    yield group
                    group = []

    def validation(self) -> Loader:
        """This rank's share of the validation events, in the datasets' order."""
        order = epoch_order(self.data.val, self.config.train.seed, 0, shuffle=False)
        accum = self.config.optim.grad_accum
        return self._open(self.data.val, rank_plan(order, self.batch_size, self.ranks.rank, self.ranks.world, accum, 0))

    def forward(self, module: nn.Module, batch: Batch, epoch: int | None) -> tuple[StepResult, Tensor]:
        """A mode's result for a micro-batch, and the weights (B,) of its events.

        Args:
            module: the mode, or what distributes it.
            batch: B events.
            epoch: the training epoch; None in validation, where nothing is augmented.
        """
        x_BN2 = self.rules.normalized(batch.sensors)
        # From pageable memory: CUDA has taken it to a buffer of its own before the call returns, and the batch may go.
        truth_BC = batch.truth.to(self.compute.device, non_blocking=True)
        if epoch is not None:
            x_BN2, truth_BC = self._augmentation.apply(x_BN2, truth_BC, epoch)
        x_BN2, mask_BN = self.rules.finish(x_BN2)
        weight_B = batch.weight.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            return module(EventBatch(x_BN2, mask_BN, truth_BC, epoch)), weight_B

    def _open(self, views: Sequence[View], plan: RankPlan) -> Loader:
        settings = self.config.data
        return open_loader(
            views,
            plan,
            device=str(self.compute.device),
            backend=settings.backend,
            threads=settings.num_threads,
            prefetch=settings.prefetch,
        )
