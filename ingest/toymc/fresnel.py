"""Transmission of light from xenon into the sensors, by angle of incidence.

Unpolarized Fresnel equations (Born and Wolf, Principles of Optics, §1.5.2 and §14.2 for absorbing media), so that
1 − R is what enters: silicon absorbs it, quartz lets it through to the photocathode. Detection efficiencies are quoted
for normal incidence and contain the loss there, so what the light model needs is the transmission relative to it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c

POLYNOMIAL_DEGREE = 5


def transmission(cosine: NDArray[np.float64], n_from: float, n_to: complex) -> NDArray[np.float64]:
    """Share of unpolarized light that enters the second medium.

    Args:
        cosine: cosine of the angle of incidence, in [0, 1], any shape.
        n_from, n_to: indices of refraction, the second may be complex.

    Returns:
        1 − (R_s + R_p)/2, same shape; 0 under total reflection.
    """
    ci = np.asarray(cosine, dtype=np.float64)
    ct = np.sqrt(1 - (n_from / n_to) ** 2 * (1 - ci**2) + 0j)
    with np.errstate(invalid="ignore"):
        rs = (n_from * ci - n_to * ct) / (n_from * ci + n_to * ct)
        rp = (n_to * ci - n_from * ct) / (n_to * ci + n_from * ct)
    result = 1 - (np.abs(rs) ** 2 + np.abs(rp) ** 2) / 2
    return np.where(ci > 0, np.clip(result, 0, 1), 0.0)


def into_silicon(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Into a SiPM, relative to normal incidence (where 0.49 enters): the detection efficiency contains the latter."""
    at_normal = transmission(np.ones(1), c.N_XENON, c.N_SILICON)
    return np.asarray(transmission(cosine, c.N_XENON, c.N_SILICON) / at_normal)


def into_quartz(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Into the window of a PMT, relative to normal incidence (0.999); total reflection below cos i = 0.32."""
    at_normal = transmission(np.ones(1), c.N_XENON, c.N_QUARTZ)
    return np.asarray(transmission(cosine, c.N_XENON, c.N_QUARTZ) / at_normal)


def quartz(cosine: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """`into_quartz` in real float32 arithmetic.

    Args:
        cosine: float32, any shape, in [0, 1].
        out: receives the result.
    """
    n1, n2 = np.float32(c.N_XENON), np.float32(c.N_QUARTZ)
    incident = np.maximum(cosine, np.float32(1e-6))
    refracted = incident * incident
    refracted -= np.float32(1 - (c.N_QUARTZ / c.N_XENON) ** 2)
    np.maximum(refracted, np.float32(0), out=refracted)  # total reflection
    np.sqrt(refracted, out=refracted)
    refracted *= n1 / n2
    perpendicular = (n1 * incident - n2 * refracted) / (n1 * incident + n2 * refracted)
    parallel = (n2 * incident - n1 * refracted) / (n2 * incident + n1 * refracted)
    at_normal = 1 - ((c.N_XENON - c.N_QUARTZ) / (c.N_XENON + c.N_QUARTZ)) ** 2
    result = np.multiply(perpendicular, perpendicular, out=out)
    result += parallel * parallel
    result *= np.float32(-0.5 / at_normal)
    result += np.float32(1 / at_normal)
    return result


@lru_cache
def silicon_polynomial() -> tuple[float, ...]:
    """Coefficients t₁ … t₅ of `into_silicon` ≈ Σ tₖ cosᵏ: within 0.0006 everywhere, and much faster.

    Weighted by the cosine, as in the light that falls on a surface.
    """
    x = 0.5 * (1 - np.cos(np.pi * (np.arange(400) + 0.5) / 400))
    powers = x[:, None] ** np.arange(1, POLYNOMIAL_DEGREE + 1)
    weight = np.sqrt(x)[:, None]
    return tuple(np.linalg.lstsq(powers * weight, into_silicon(x) * weight[:, 0], rcond=None)[0].tolist())
