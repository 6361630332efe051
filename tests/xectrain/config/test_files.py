from pathlib import Path

import pytest

from shards.base import ConfigError
from xectrain.config.files import parse_assignment, to_yaml
from xectrain.config.networks import PRESETS
from xectrain.config.tree import Config, completed
from xectrain.modes import load_config


def test_layers_assignments_and_options_override_in_order(tmp_path: Path) -> None:
    base, over = tmp_path / "base.yaml", tmp_path / "over.yaml"
    base.write_text("optim: {lr: 1e-4, weight_decay: 0.1}\ntrain: {epochs: 3}\n")
    over.write_text("optim: {lr: 2e-4}\n")
    config = load_config([base, over], ["train.seed=7"], {"train": {"epochs": 5}})
    assert (config.optim.lr, config.optim.weight_decay) == (2e-4, 0.1)
    assert (config.train.epochs, config.train.seed) == (5, 7)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.learning_rate=1", r"optim\.learning_rate: no such key; valid: .*lr"),
        ("trian.epochs=1", r"trian: no such key; did you mean 'train'"),
        ("data.batchsize=1", r"data\.batchsize: no such key; did you mean 'batch_size'"),
        ("model.encoder.widht=64", r"model\.encoder\.widht: no such key; did you mean 'width'"),
        ("optim.lr=-1", r"optim\.lr: has a wrong value .*found -1.*greater than 0"),
        ("train.epochs=many", r"train\.epochs: has a wrong value"),
        ("tasks.energy.loss=smoth_l1", r"tasks\.energy\.loss: has a wrong value .*'smooth_l1'"),
        ("model.preset=huge", r"model\.preset: has a wrong value"),
    ],
)
def test_mistakes_are_named_by_path_with_the_nearest_key(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(assignments=[assignment])


def test_assignment_without_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected key\.path=value"):
        parse_assignment("optim.lr")


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert parse_assignment("optim.lr=1e-4") == {"optim": {"lr": 1e-4}}
    assert parse_assignment("data.train=[a, b]") == {"data": {"train": ["a", "b"]}}


def test_yaml_words_that_look_like_booleans_are_words() -> None:
    config = load_config(assignments=["train.compile=off", "checkpoint.resume=off", "train.deterministic=true"])
    assert (config.train.compile, config.checkpoint.resume, config.train.deterministic) == ("off", "off", True)


def test_a_preset_is_the_base_of_single_options() -> None:
    config = load_config(assignments=["model.preset=tiny", "model.encoder.pool=attention"])
    assert config.model.encoder.width == PRESETS["tiny"].encoder.width
    assert config.model.encoder.pool == "attention"


def test_printed_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(assignments=["model.preset=small", "tasks.energy.enabled=true", "data.train=[a]"])
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config([tmp_path / "c.yaml"]) == config


def test_what_depends_on_the_machine_is_resolved() -> None:
    config = load_config(assignments=["model.encoder.pool=bilinear"])
    cpu, gpu = config.resolved(gpu=False), config.resolved(gpu=True)
    assert (cpu.model.preset, cpu.data.batch_size) == ("small", 256)
    assert (gpu.model.preset, gpu.data.batch_size) == ("small", 1024)
    assert cpu.model.encoder.pool == gpu.model.encoder.pool == "bilinear"


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(("text", "message"), [("- a\n", "does not hold a configuration"), ("a: [", "is not YAML")])
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config([tmp_path / "c.yaml"])


def test_every_field_has_a_description() -> None:
    from pydantic import BaseModel

    def check(model: type[BaseModel]) -> int:
        count = 0
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            count += 1
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                count += check(field.annotation)
        return count

    assert check(Config) > 60


def test_what_an_earlier_version_stored_keeps_its_meaning_though_the_preset_changed() -> None:
    stored = load_config(assignments=["model.preset=small"]).model_dump(mode="json")
    for key in [k for k in stored["model"]["encoder"] if k.startswith(("focus", "inner_resolution", "rest"))]:
        del stored["model"]["encoder"][key]
    del stored["model"]["regressor"]["time_mean"]
    stored["model"]["encoder"]["inner_tokens"] = 8
    found = Config.model_validate(completed(stored))
    assert PRESETS["small"].encoder.focus
    encoder = found.model.encoder
    assert (encoder.focus, encoder.inner_resolution, encoder.inner_tokens) == (0, 1, 8)
    assert found.model.regressor.time_mean == 0
    assert found.model.preset == "small"
