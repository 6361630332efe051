import subprocess
import sys

import pytest

from shards.base import ConfigError
from xectrain.config.networks import PRESETS, EncoderConfig, TaskConfig, TasksConfig, model_config
from xectrain.config.sensors import MaskingConfig


def test_a_config_is_checked_without_torch() -> None:
    code = "import sys, xectrain.config.networks, xectrain.config.sensors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_presets_accept_overrides() -> None:
    assert [PRESETS[name].encoder.width for name in ("reference", "small", "tiny")] == [1024, 128, 128]
    changed = model_config("small", {"encoder": {"width": 64, "outer_pool": [1, 1]}})
    assert changed.encoder.width == 64
    assert changed.encoder.outer_pool == (1, 1)
    assert changed.encoder.focus == PRESETS["small"].encoder.focus == 15


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("refrence", {}, r"model.preset: is not a model preset .*did you mean 'reference'\?"),
        ("tiny", {"encoder": {"widht": 64}}, r"model.encoder.widht: is not an option; did you mean 'width'\?"),
        ("tiny", {"encoder": {"width": 40}}, "model.encoder.width: Input should be a multiple of 32"),
        ("tiny", {"encoder": {"outer_pool": [5, 3]}}, r"outer_pool 5×3 does not divide the 72×45 fine grid"),
        ("tiny", {"encoder": {"fusion_heads": 5}}, r"fusion_heads 5 does not divide width 128"),
        ("tiny", {"encoder": {"stage_blocks": [0, 1]}}, "at least one block per stage"),
        ("tiny", {"inpainter": {"query_heads": 3}}, "query_heads 3 does not divide query_width 16"),
        ("tiny", {"inpainter": {"head": "neighbours", "neighbours": 80}}, "at most 72 neighbours, not 80: a face has"),
        ("small", {"inpainter": {"residual": True}}, "residual: the head `neighbours` starts from a mean"),
        ("tiny", {"encoder": {"focus": 10}}, "focus 10 must be odd and at least 9, or 0"),
        ("tiny", {"encoder": {"inner_resolution": 4}}, "inner_resolution above 1 needs a focus"),
        ("tiny", {"encoder": {"focus": 9, "inner_resolution": 4, "outer": "split"}}, "one token per face"),
        ("tiny", {"encoder": {"pool": "max"}}, "model.encoder.pool: Input should be 'area', 'bilinear' or 'attention'"),
    ],
)
def test_wrong_options_are_named(preset: str, overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(preset, overrides)


def test_tasks_by_either_name_of_the_direction() -> None:
    tasks = TasksConfig.model_validate({"angle": {"enabled": False}, "angleVec": {"enabled": True, "loss": "angular"}})
    assert list(tasks.enabled()) == ["direction"]


@pytest.mark.parametrize("quantiles", [(0.16, 0.84), (0.5, 0.16), (0.0, 0.5), (0.5, 0.5)])
def test_quantiles_must_rise_around_the_median(quantiles: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"must rise strictly between 0 and 1 and include 0.5"):
        TaskConfig(quantiles=quantiles)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "must be between 0 and 1"),
        ({"ratio": {"inner": -0.1}}, "must be between 0 and 1"),
        ({"kind": "fixed"}, "kind fixed needs counts"),
        ({"kind": "pattern"}, "kind pattern needs patterns"),
        ({"kind": "mixture"}, "mixture needs kinds with positive weights"),
        ({"kind": "mixture", "mixture": {"random": 1, "pattern": 1}}, "kind pattern needs patterns"),
        ({"counts": {"inner": -1}}, "counts must not be negative"),
        ({"predict_channels": ("npho", "npho")}, "once each"),
        ({"loss": "angular"}, "Input should be"),
    ],
)
def test_wrong_masking_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskingConfig(**options)


def test_masking_defaults_are_those_of_the_mode() -> None:
    assert (MaskingConfig().ratios(0.6), MaskingConfig(ratio=0.1).ratios(0.6)) == (0.6, 0.1)
    assert MaskingConfig().channels(("npho",)) == ("npho",)
    assert MaskingConfig(predict_channels=("time", "npho")).channels(("npho",)) == ("npho", "time")


def test_every_option_has_a_description() -> None:
    for section in (EncoderConfig, TaskConfig, TasksConfig, MaskingConfig, *map(type, dict(PRESETS["tiny"]).values())):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
