"""Physical constants of the toy, each with its source. Lengths in cm, times in ns, energies in MeV."""

from __future__ import annotations

import math

from shards import geometry as geo

# --- liquid xenon -----------------------------------------------------------------------------------------------------
Z = 54
ATOMIC_MASS = 131.293
"""g/mol; Particle Data Group (PDG), Review of Particle Physics, atomic and nuclear properties."""
DENSITY = 2.953
"""g/cm³ at the boiling point; PDG, atomic and nuclear properties, "liquid xenon"."""
X0_MASS = 8.48
"""Radiation length of xenon, g/cm²; PDG."""
X0 = X0_MASS / DENSITY
"""2.87 cm."""
EXCITATION = 482e-6
"""Mean excitation energy I; ICRU report 37."""
ELECTRON_MASS = 0.51099895
"""CODATA 2018."""
LIGHT_SPEED = geo.LIGHT_SPEED
"""cm/ns."""

# --- scintillation light ----------------------------------------------------------------------------------------------
PHOTONS_PER_MEV = 46000.0
"""W_ph = 21.6 eV per photon for electrons: Doke et al., Jpn. J. Appl. Phys. 41 (2002) 1538."""
ABSORPTION_LENGTH = 300.0
"""Typical purity of the MEG xenon; Baldini et al., Nucl. Instrum. Meth. A 545 (2005) 753, found more than 100 cm."""
RAYLEIGH_LENGTH = 36.0
"""Measured as 36.4 cm: Ishida et al., Nucl. Instrum. Meth. A 384 (1997) 380; calculated as 30 cm: Seidel et al.,
Nucl. Instrum. Meth. A 489 (2002) 189."""
EXTINCTION_LENGTH = 1.0 / (1.0 / ABSORPTION_LENGTH + 1.0 / RAYLEIGH_LENGTH)
"""Of direct light: 32.1 cm."""
N_XENON = 1.69
"""Phase index at 175 nm: Solovov et al., Nucl. Instrum. Meth. A 516 (2004) 462."""
N_GROUP = 3.6
"""Group index at 175 nm, n − λ·dn/dλ, which the travel time of light follows (8.3 cm/ns). It is far above the phase
index because the dispersion is steep so near to the resonance."""
N_SILICON = 0.8 + 2.2j
"""Palik, Handbook of Optical Constants of Solids, near 7.1 eV (175 nm)."""
N_QUARTZ = 1.60
"""Synthetic quartz at 175 nm: Malitson, J. Opt. Soc. Am. 55 (1965) 1205, extrapolated."""
DECAY_TIME = 45.0
"""Effective decay time of scintillation by electrons: Hitachi et al., Phys. Rev. B 27 (1983) 5279."""
TRIGGER_FRACTION = 0.045
"""The sensor's time is that of the k-th photoelectron, k = max(1, 0.045·N): a constant-fraction crossing early on the
leading edge. It sets the resolution to 45 ns·√0.045/√N = 9.5 ns/√N."""

# --- sensors ----------------------------------------------------------------------------------------------------------
PDE_SIPM = 0.12
"""Photon detection efficiency of the MEG II MPPC at 175 nm; Ieki et al., Nucl. Instrum. Meth. A 925 (2019) 148,
measured up to 0.21 before its decrease in the beam, reported with MEG II, Eur. Phys. J. C 84 (2024) 190."""
QE_PMT = 0.16
"""Quantum efficiency of the R9869 at 175 nm."""
EXCESS_SIPM, EXCESS_PMT = 1.36, 1.25
"""Excess-noise factor F: the variance of the signal of N photoelectrons is F·N (crosstalk and afterpulses; gain spread
of the first dynodes)."""
NOISE_SIPM, NOISE_PMT = 1.0, 0.5
"""Baseline noise of the integrated charge, photoelectrons."""
RESPONSE_SPREAD = 0.12
"""True spread of the efficiency from channel to channel."""
CALIBRATION_SPREAD = 0.03
"""How well the efficiency of a channel is known."""
TIME_JITTER = 0.1
"""Electronics, ns."""
TIME_NOISE = 8.0
"""Contribution of the baseline noise to the time: 8 ns·noise/N."""
TIME_OFFSET_SPREAD = 0.05
"""Residual time offset of a channel within a run, ns."""
MINIMUM_CHARGE = 1.0
"""Below this many photoelectrons a channel has no time."""
EARLIEST_CHARGE = 50.0
"""`time_min_used` is the earliest time among sensors with more photoelectrons than this."""
SIPM_PIXELS = 57600
"""Pixels of one MPPC (four chips of 5.95×5.85 mm² with a pitch of 50 µm, about 14 400 pixels each)."""
MISSING = 1e10
"""What real files hold for a value that does not exist."""

# --- beam and target --------------------------------------------------------------------------------------------------
TARGET_SLANT = math.radians(15.0)
TARGET_SIGMA_Z, TARGET_SIGMA_Y = 4.0, 1.0
EMISSION_WINDOW = 10.0
"""Gammas are emitted flat within ± this many ns."""
SIGNAL_COS_THETA = 0.45
SIGNAL_PHI = math.radians(70.0)
UNIFORM_CONE = math.radians(60.0)
SIGNAL_ENERGY = 52.83
"""m_µ/2 of µ → eγ."""
PION_MASS = 134.9768
"""Of the π⁰; PDG."""
PION_ENERGY = 137.859
"""Of the π⁰ from π⁻p → π⁰n at rest: ((m_π + m_p)² + m_π⁰² − m_n²) / 2(m_π + m_p) with PDG masses."""
