"""Interactions of photons and electrons in liquid xenon: cross sections, energy loss, and how products share energy.

Used only to make the shower library. Energies in MeV, lengths in cm, coefficients in 1/cm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c

Floats = NDArray[np.float64]

ATOMS_PER_BARN_CM = 0.602214076 * c.DENSITY / c.ATOMIC_MASS
"""A cross section of 1 barn per atom makes this coefficient, 1/cm."""
CLASSICAL_RADIUS2 = 0.0794078
"""Squared classical electron radius, barn (CODATA 2018)."""

# Pair production: parametrization of the tables of Hubbell, Gimm and Øverbø, J. Phys. Chem. Ref. Data 9 (1980) 1023, in
# the Geant4 Physics Reference Manual, "Gamma conversion", within 5 % from 1.5 MeV to 100 GeV; µb, powers of ln(E/m).
_PAIR_1 = (8.7842e2, -1.9625e3, 1.2949e3, -2.0028e2, 1.2575e1, -2.8333e-1)
_PAIR_2 = (-1.0342e1, 1.7692e1, -8.2381, 1.3063, -9.0815e-2, 2.3586e-3)
_PAIR_3 = (-4.5263e2, 1.1161e3, -8.6749e2, 2.1773e2, -2.0467e1, 6.5372e-1)
_PAIR_LEAST = 1.5

# Photoelectric effect: Biggs and Lighthill, Sandia report SAND87-0070 (1988), xenon; cm²/g, coefficients of 1/E … 1/E⁴
# with E in keV, from the K edge, from 100 and from 500 keV on.
_PHOTO_EDGES = (100.0, 500.0)
_PHOTO = ((-1.622, 1.830e3, 1.780e6, -1.721e7), (2.082, 3.625e2, 1.962e6, -2.448e7), (1.148, 1.892e3, 1.133e6, 1.244e8))


def compton(energy: Floats) -> Floats:
    """Compton scattering, 1/cm: Klein and Nishina, Z. Phys. 52 (1929) 853, on free electrons."""
    k = energy / c.ELECTRON_MASS
    log = np.log1p(2 * k)
    first = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - log / k)
    sigma = 2 * np.pi * CLASSICAL_RADIUS2 * (first + log / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2)
    return np.asarray(ATOMS_PER_BARN_CM * c.Z * sigma)


def pair(energy: Floats) -> Floats:
    """Pair production, 1/cm; 0 below threshold."""
    x = np.log(np.maximum(energy, _PAIR_LEAST) / c.ELECTRON_MASS)
    f1, f2, f3 = (np.polynomial.polynomial.polyval(x, coefficients) for coefficients in (_PAIR_1, _PAIR_2, _PAIR_3))
    sigma = 1e-6 * (c.Z + 1) * c.Z * (f1 + f2 * c.Z + f3 / c.Z)
    above = np.clip((energy - 2 * c.ELECTRON_MASS) / (_PAIR_LEAST - 2 * c.ELECTRON_MASS), 0, 1)
    return np.asarray(ATOMS_PER_BARN_CM * sigma * above**2)


def photoelectric(energy: Floats) -> Floats:
    """Photoelectric effect, 1/cm; from the K edge (34.6 keV) on."""
    kev = np.asarray(energy) * 1e3
    coefficients = np.array(_PHOTO)[np.searchsorted(_PHOTO_EDGES, kev, side="right")]
    powers = kev[..., None] ** -np.arange(1.0, 5.0)
    return np.asarray(c.DENSITY * (coefficients * powers).sum(axis=-1))


def mean_free_path(energy: Floats) -> Floats:
    """Of photons, all three processes, cm."""
    return np.asarray(1 / (compton(energy) + pair(energy) + photoelectric(energy)))


def stopping_power(kinetic: Floats) -> Floats:
    """Collision energy loss of electrons, MeV/cm, and taken for positrons too.

    Bethe's formula for electrons (Berger and Seltzer, NBSIR 82-2550) with the density effect of Sternheimer and
    Peierls, Phys. Rev. B 3 (1971) 3681, for a condensed medium of this density.
    """
    tau = kinetic / c.ELECTRON_MASS
    gamma = tau + 1
    beta2 = 1 - 1 / gamma**2
    f = 1 - beta2 + (tau**2 / 8 - (2 * tau + 1) * np.log(2)) / gamma**2
    constant = 0.153537 * c.DENSITY * c.Z / c.ATOMIC_MASS
    log = np.log(tau**2 * (tau + 2) / (2 * (c.EXCITATION / c.ELECTRON_MASS) ** 2))
    return np.asarray(constant / beta2 * (log + f - _density_effect(np.sqrt(gamma**2 - 1))))


def radiation_factor(total: Floats) -> Floats:
    """Radiated power of an electron of this total energy over that of complete screening, E/X₀.

    The smaller of the unscreened Born formula, 4·(ln(2E/m) − 1/3), and complete screening, 4·ln(183·Z^(−1/3)) + 2/9
    (Koch and Motz, Rev. Mod. Phys. 31 (1959) 920, formulas 4BN(b) and 4CS).
    """
    complete = 4 * np.log(183 / c.Z ** (1 / 3)) + 2 / 9
    return np.asarray(np.minimum(4 * (np.log(2 * total / c.ELECTRON_MASS) - 1 / 3) / complete, 1.0))


def scattering_angle(kinetic: Floats, length: Floats) -> Floats:
    """Width [rad] of the projected angle of multiple scattering over a short step.

    Highland's formula (PDG, Passage of particles through matter, eq. 34.16). Its logarithm is taken at 0.3 X₀, the
    path over which electrons of this shower turn, so that widths of steps add in quadrature.
    """
    total = kinetic + c.ELECTRON_MASS
    beta_p = (total**2 - c.ELECTRON_MASS**2) / total
    return np.asarray(13.6 / beta_p * np.sqrt(length / c.X0) * (1 + 0.038 * np.log(0.3)))


def draw_compton(rng: np.random.Generator, energy: Floats) -> tuple[Floats, Floats]:
    """Energy and cosine of the scattered photon, from Klein and Nishina (method of Butcher and Messel, 1960)."""
    k = energy / c.ELECTRON_MASS
    least = 1 / (1 + 2 * k)
    share, cosine = np.empty_like(energy), np.empty_like(energy)
    todo = np.arange(len(energy))
    while len(todo):
        low = least[todo]
        log_part = -np.log(low)
        first = rng.random(len(todo)) * (log_part + 0.5 * (1 - low**2)) < log_part
        r = rng.random(len(todo))
        trial = np.where(first, low**r, np.sqrt(low**2 + (1 - low**2) * r))
        t = (1 - trial) / (k[todo] * trial)
        sine2 = np.clip(t * (2 - t), 0, 1)
        good = rng.random(len(todo)) < 1 - trial * sine2 / (1 + trial**2)
        done = todo[good]
        share[done], cosine[done] = trial[good], 1 - t[good]
        todo = todo[~good]
    return share * energy, np.clip(cosine, -1, 1)


def draw_pair_share(rng: np.random.Generator, n: int) -> Floats:
    """Share of the kinetic energy that the electron gets: ∝ x² + (1 − x)² + ⅔·x(1 − x) (complete screening)."""
    x = rng.random(n)
    todo = np.flatnonzero(rng.random(n) > 1 - 4 / 3 * x * (1 - x))
    while len(todo):
        trial = rng.random(len(todo))
        x[todo] = trial
        todo = todo[rng.random(len(todo)) > 1 - 4 / 3 * trial * (1 - trial)]
    return x


def draw_radiated_share(rng: np.random.Generator, least: Floats) -> Floats:
    """Share y ≥ `least` of its energy that an electron radiates: ∝ (4/3 − 4/3·y + y²)/y (complete screening)."""
    y = np.empty_like(least)
    todo = np.arange(len(least))
    while len(todo):
        trial = least[todo] ** rng.random(len(todo))
        good = rng.random(len(todo)) * 4 / 3 < 4 / 3 - 4 / 3 * trial + trial**2
        y[todo[good]] = trial[good]
        todo = todo[~good]
    return y


def radiation_rate(kinetic: Floats, cut: float) -> Floats:
    """Mean number of photons above `cut` radiated per cm; 0 where the electron has less than that."""
    y = np.minimum(cut / kinetic, 1.0)
    integral = 4 / 3 * (-np.log(y) - 1 + y) + 0.5 * (1 - y**2)
    return np.asarray(radiation_factor(kinetic + c.ELECTRON_MASS) * integral / c.X0)


def _density_effect(beta_gamma: Floats) -> Floats:
    plasma = 28.816e-6 * np.sqrt(c.DENSITY * c.Z / c.ATOMIC_MASS)
    c_bar = 2 * np.log(c.EXCITATION / plasma) + 1
    x0, x1 = 0.326 * c_bar - 1.5, 3.0
    a = (c_bar - 2 * np.log(10) * x0) / (x1 - x0) ** 3
    x = np.log10(beta_gamma)
    asymptotic = 2 * np.log(10) * x - c_bar
    return np.where(x < x0, 0.0, asymptotic + np.where(x < x1, a * np.clip(x1 - x, 0, None) ** 3, 0.0))
