"""The training configuration: one typed, frozen tree, validated before torch is imported.

Every field has a docstring with its unit and the meaning of special values; `docs/config.md` is generated from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xectrain.config.merge import merge
from xectrain.config.networks import PRESETS, ModelConfig, PresetName, TasksConfig
from xectrain.config.sensors import MaskingConfig

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Group(BaseModel):
    """Base of every group: frozen, unknown keys refused, the docstring under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DatasetConfig(Group):
    """One dataset of a mixture."""

    path: str
    """Folder of a shard dataset."""
    weight: Positive = 1.0
    """Events are drawn from it in proportion to weight × events; with 1 for all, every event once per epoch."""
    select: str | None = None
    """Expression on the columns that events must pass (`abs(u) < 23.9 and w >= 0`, `fiducial`); null: all events."""


class DataConfig(Group):
    """Where events come from and how they are read."""

    train: tuple[DatasetConfig, ...] = ()
    """Training datasets, mixed by their weights; all with the same storage normalization. A bare path is accepted."""
    val: tuple[DatasetConfig, ...] = ()
    """Validation datasets. Empty: `val_fraction` of the training events is held out by a hash of (run, event)."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out for validation when `val` is empty."""
    select: str | None = None
    """Expression applied to every dataset, for training and validation, in addition to its own."""
    normalization: Literal["standard", "sqrt", "legacy"] | None = None
    """Normalization the network reads; batches of other shards are remapped exactly. null: that of the datasets."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Events per optimizer step over all ranks; null: 256, or 1024 on a GPU."""
    device: str = "auto"
    """`auto` (the rank's GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    backend: Literal["auto", "dali", "webdataset"] = "auto"
    """Reader: DALI where its wheel is installed, else webdataset."""
    num_threads: Annotated[int, Field(ge=1)] = 2
    """DALI threads per rank."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Micro-batches read ahead."""
    allow_duplicates: bool = False
    """Whether an event (run and event number) may be in two of the training datasets."""
    epoch_events: Annotated[int, Field(ge=1)] | None = None
    """Events per epoch, without repetition as far as possible; null: all."""

    @model_validator(mode="before")
    @classmethod
    def _accept_paths(cls, values: object) -> object:
        if isinstance(values, dict):
            for key in ("train", "val"):
                entries = values.get(key)
                if isinstance(entries, str):
                    entries = [entries]
                if isinstance(entries, list | tuple):
                    values = {**values, key: [{"path": e} if isinstance(e, str) else e for e in entries]}
        return values


class OptimConfig(Group):
    """AdamW."""

    lr: Positive = 3e-4
    """Peak learning rate; default 1e-4 for mae, 1e-3 for inpaint."""
    weight_decay: NonNegative = 1e-4
    """Decoupled weight decay; never on biases, norms, GRN and embeddings."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the two moments."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    grad_accum: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per optimizer step; splits the batch without enlarging it."""
    encoder_lr_scale: NonNegative = 1.0
    """Factor for the encoder's learning rate, for fine-tuning."""
    freeze_encoder: bool = False
    """Whether the encoder keeps its weights; default true for inpaint with `checkpoint.init_from`."""


class ScheduleConfig(Group):
    """Learning rate per step."""

    kind: Literal["cosine", "onecycle", "restarts", "plateau", "constant"] = "cosine"
    """cosine: one half wave to `lr_min`; onecycle: a rise over `onecycle_rise`, then a half wave down; restarts: a half
    wave every `restart_epochs`; plateau: ×`plateau_factor` after `plateau_patience` validations without improvement."""
    warmup_epochs: NonNegative = 2.0
    """Linear rise from 0 at the start, in epochs (fractions allowed); onecycle has its own rise."""
    lr_min: NonNegative = 1e-6
    """Where the learning rate ends."""
    onecycle_rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of all steps during which onecycle rises."""
    restart_epochs: Positive = 10.0
    """Period of restarts, in epochs."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor for the learning rate at a plateau."""
    plateau_patience: Annotated[int, Field(ge=1)] = 3
    """Validations without improvement that make a plateau."""


class TrainConfig(Group):
    """How long, how exactly, at what precision."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """Passes over the training events; default 50 for inpaint, without limit where `minutes` is given."""
    minutes: Positive | None = None
    """End after this many minutes of training, including validation and counted over restarts, in the middle of an
    epoch if necessary; the schedule spans the steps that fit in at the measured speed. Learning rates then follow the
    clock, so such a run is not repeatable bit for bit. null: `epochs` alone decides."""
    early_stop: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without improvement; null: never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: the faster one, measured on a few steps before the first unless the run is short; a run goes on in the
    precision that it began with. The log has the table."""
    compile: Literal["auto", "off", "default", "max-autotune"] = "auto"
    """auto: tried where a run takes more than an hour and a half, and kept if it is faster; the log has the table."""
    ema_decay: Fraction = 0.999
    """Decay of the weights' moving average per step, min(this, (1+n)/(10+n)) at step n; from step 100 on it moves every
    fourth step, by four steps' worth. 0: no average."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the order of events, the initial weights and everything random in a step."""
    deterministic: bool = False
    """Bit-identical repetition on CPU: float32, eager, deterministic algorithms, and a number of threads that does not
    follow what else the machine does."""
    val_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations; there is always one after the last epoch."""
    max_bad_steps: Annotated[int, Field(ge=0)] = 0
    """Steps with a NaN or infinite loss or gradient to skip before giving up; 0: give up at the first."""
    log_every: Annotated[int, Field(ge=1)] = 20
    """Steps per line of `metrics.jsonl`."""


class AugmentConfig(Group):
    """Random changes to training batches, on the device; 0 turns each of them off."""

    channel_dropout: Fraction = 0.0
    """Probability that a sensor becomes dead (both sentinels, not 0)."""
    pattern_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that an event gets one of `patterns` as dead channels."""
    patterns: tuple[str, ...] = ()
    """Files of dead channels."""
    npho_noise: NonNegative = 0.0
    """Gaussian noise on the photons of a sensor, in units of their square root."""
    time_jitter: NonNegative = 0.0
    """Gaussian noise on the time of a sensor [ns]."""
    energy_scale: Fraction = 0.0
    """Relative spread of a common factor for all photons and the energy target."""
    mirror_z: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of swapping z for −z: channels permuted, θ → 180° − θ, u → −u."""
    mirror_y: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of swapping y for −y: channels permuted, φ → −φ, v → −v."""
    curriculum: str | None = None
    """Column by which an epoch is ordered from small to large, in eight stages, each shuffled."""

    @model_validator(mode="after")
    def _has_patterns(self) -> Self:
        if self.pattern_dropout > 0 and not self.patterns:
            raise ValueError("pattern_dropout needs patterns")
        return self


class ReweightConfig(Group):
    """Making rare target values count as much as frequent ones (see `xectrain.modes.reweight`)."""

    by: Literal["off", "loss", "plan"] = "off"
    """loss: weights in each task's loss; plan: events drawn so that one task's target is uniform."""
    tasks: tuple[Literal["angle", "energy", "timing", "uvwFI"], ...] = ()
    """angle (20×20 bins), energy (30), timing (30), uvwFI (10×10 in u, v); exactly one with `plan`."""
    limit: Annotated[float, Field(ge=1)] = 20.0
    """Largest weight of a bin."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.by != "off" and not self.tasks:
            raise ValueError("reweighting needs tasks")
        if self.by == "plan" and len(self.tasks) != 1:
            raise ValueError("reweighting by plan takes exactly one task")
        return self


class CheckpointConfig(Group):
    """What is kept, and where a run starts."""

    every: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between checkpoints, in addition to the one after each epoch; null: only the latter."""
    keep: Annotated[int, Field(ge=1)] = 1
    """Earlier checkpoints kept in addition to the newest and the best."""
    resume: str = "auto"
    """auto: continue the newest valid checkpoint of the run folder if there is one; off: refuse to continue a folder
    that holds a run; a path: continue that checkpoint."""
    init_from: str | None = None
    """Start a new run from the weights (EMA if present) of this checkpoint."""
    init_parts: Literal["encoder", "all"] = "encoder"
    """What `init_from` takes: the encoder, or every tensor and the target standardization."""
    refresh_lr: bool = False
    """On resume, a fresh schedule over the remaining epochs. This and the next two take effect once: a checkpoint
    written with the same options and number of epochs is simply continued."""
    reset_epoch: bool = False
    """On resume, keep only the weights and their average: epochs, optimizer, schedule and curves start again (earlier
    curves stay in `metrics.1.jsonl`, `metrics.2.jsonl` …)."""
    new_run: bool = False
    """On resume, log to a new MLflow run."""
    save_artifacts: bool = True
    """When training is done: the best model's report, tables, plots, card and predictions on the validation set, in
    `artifacts` of the run folder and in MLflow, as made by `xec evaluate RUN`."""
    artifacts_every: Annotated[int, Field(ge=1)] | None = None
    """Epochs between artifacts during training, made in `artifacts_ep{epoch}` if there is a new best. Training
    waits for them; a budget of minutes does not include them. null: only at the end."""


class TrackingConfig(Group):
    """MLflow mirrors `metrics.jsonl`; the run folder stays the truth."""

    mlflow: bool = True
    """Whether to mirror the run to MLflow."""
    uri: str | None = None
    """MLflow store; null: `sqlite:///mlflow.db` in the folder above the run."""
    experiment: str = "xec"
    """MLflow experiment."""
    run_name: str | None = None
    """MLflow run name; null: the run folder's name."""
    patience_s: NonNegative = 60.0
    """How long a finished run waits for MLflow and TensorBoard to catch up [s]; `xec track sync` sends the
    rest."""
    tensorboard: bool = False
    """Whether to also write TensorBoard event files, in the run's folder `tensorboard` (needs `xec[tensorboard]`)."""


class NetworkConfig(ModelConfig):
    """The network: a preset, with single options replaced."""

    preset: PresetName | None = None
    """Named size that the options below modify; null: small."""
    npho_threshold: NonNegative | None = None
    """Photons below which a sensor's time counts as invalid; null: 100, or 0 with the legacy normalization."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("preset") not in PRESETS:
            return values
        tree: dict[str, object] = PRESETS[values["preset"]].model_dump()
        merge(tree, values)
        return tree


class Config(Group):
    """Everything that determines a training run."""

    mode: str = "regress"
    """regress: predict event quantities; mae: pre-train the encoder on hidden sensors; inpaint: fill dead channels."""
    data: DataConfig = DataConfig()
    """Events and how they are read."""
    model: NetworkConfig = NetworkConfig()
    """The network."""
    tasks: TasksConfig = TasksConfig()
    """What the regressor predicts."""
    masking: MaskingConfig = MaskingConfig()
    """What mae and inpaint hide, and the loss on it."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate."""
    train: TrainConfig = TrainConfig()
    """Length, precision, reproducibility."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training batches."""
    reweight: ReweightConfig = ReweightConfig()
    """Balance over target values."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving and resuming."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go."""

    @model_validator(mode="after")
    def _reweights_what_is_learned(self) -> Self:
        off = [task for task in self.reweight.tasks if task not in self.tasks.enabled()]
        if self.reweight.by == "loss" and off:
            raise ValueError(f"reweight.tasks: {', '.join(off)} is not learned")
        return self

    def resolved(self, *, gpu: bool) -> Config:
        """This configuration with every choice that depends on the machine made.

        Args:
            gpu: whether the run has a GPU.
        """
        tree = self.model_dump(exclude_unset=True)
        model, data = tree.setdefault("model", {}), tree.setdefault("data", {})
        if self.model.preset is None:
            model["preset"] = "small"
        if self.data.batch_size is None:
            data["batch_size"] = 1024 if gpu else 256
        return Config.model_validate(tree)


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version wrote in full, with the options that were added since.

    These take their field's default, which is what was done before, and never the preset's value, since the preset may
    be another network by now.
    """
    model: dict[str, Any] = ModelConfig().model_dump(mode="json")
    merge(model, stored.get("model", {}))
    return {**stored, "model": model}
