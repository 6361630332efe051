"""The reference's correction: fitted once, robust, harmless outside what it has seen, and nothing on few events."""

from __future__ import annotations

import numpy as np
import torch

from xectrain.models.calibration import ENOUGH_EVENTS, ReferenceCorrection

FACTS = 18


def sample(events: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Facts, and differences in u, v, w that are a quadratic form of them, noise, and one event in ten far off."""
    draw = np.random.default_rng(seed)
    facts = draw.normal(size=(events, FACTS)).astype(np.float32)
    form = np.stack([facts[:, 0], 0.5 * facts[:, 1] * facts[:, 2], 1 - facts[:, 3] ** 2], axis=1)
    wanted = form + 0.1 * draw.normal(size=form.shape)
    wanted[::10] += 20
    return torch.from_numpy(facts), wanted


def test_a_quadratic_form_is_found_in_spite_of_wrong_photons() -> None:
    correction = ReferenceCorrection(("uvwFI",), FACTS)
    facts, wanted = sample(3000)
    wanted[:, 0] -= 1700  # as far from the reference as the logarithm of photons is from that of an energy
    left = correction.fit(facts, {"uvwFI": wanted}, {"uvwFI"})["uvwFI"]
    assert np.quantile(np.abs(left), 0.68) < 0.25
    unseen, other = sample(1000, seed=1)
    other[:, 0] -= 1700
    found = correction("uvwFI", unseen).numpy()
    assert found.shape == (1000, 3)
    assert np.quantile(np.abs(other - found), 0.68) < 0.25
    far = correction("uvwFI", 100 * unseen)
    assert far.isfinite().all()
    assert float(far[:, 1:].abs().max()) < 50  # not continued as a parabola


def test_missing_truth_is_left_out_and_few_events_fit_nothing() -> None:
    correction = ReferenceCorrection(("uvwFI",), FACTS)
    facts, wanted = sample(ENOUGH_EVENTS - 1)
    assert correction.fit(facts, {"uvwFI": wanted}, {"uvwFI"})["uvwFI"] is wanted
    assert (correction("uvwFI", facts) == 0).all()
    facts, wanted = sample(2 * ENOUGH_EVENTS)
    wanted[5] = np.nan
    left = correction.fit(facts, {"uvwFI": wanted}, {"uvwFI"})["uvwFI"]
    assert np.isnan(left[5]).all()
    assert np.isfinite(left[6:]).all()


def test_what_is_not_to_be_corrected_is_measured_all_the_same() -> None:
    correction = ReferenceCorrection(("uvwFI", "timing"), FACTS)
    facts, wanted = sample(3000)
    left = correction.fit(facts, {"uvwFI": wanted, "energy": wanted[:, :1], "timing": wanted[:, :1]}, {"timing"})
    for values in left.values():
        assert (np.quantile(np.abs(values), 0.68, axis=0) < 0.25).all()
    assert (correction("uvwFI", facts) == 0).all()
    assert (correction("timing", facts) != 0).any()
