"""Numbers of the detector: dimensions, sensor sizes, faces and channel ranges. Lengths in cm, angles in radians.

z runs along the muon beam; the C-shaped detector sits at x < 0 around the target at the origin. The azimuth φ' is
measured so that x = −r·cos φ', y = r·sin φ'.
"""

from __future__ import annotations

import math

LIGHT_SPEED = 29.9792458
"""In vacuum, cm/ns."""
LIGHT_SPEED_XENON = LIGHT_SPEED / 3.6
"""Group velocity of scintillation light (175 nm) in liquid xenon, cm/ns: 8.33."""

N_SENSORS = 4760
N_SIPM = 4092
N_PMT = N_SENSORS - N_SIPM

R_STRUCTURE = 64.84
"""Radius of the inner wall; the end faces and their tilt are referred to it."""
R_INNER = R_STRUCTURE + 0.13
"""Radius of the SiPM surface: the origin of w, and the radius that turns φ' into v."""
R_OUTER = 106.27
PHI_RANGE = math.radians(125.52)
"""Full azimuthal range Φ; top and bottom lie at φ' = ±Φ/2."""
Z_LENGTH_INNER = 67.03
Z_LENGTH_OUTER = 96.00
"""Length in z at R_STRUCTURE and at R_OUTER."""
TAN_TILT = 0.5 * (Z_LENGTH_OUTER - Z_LENGTH_INNER) / (R_OUTER - R_STRUCTURE)
"""Tilt of the end faces, tan t = 0.34963."""

W_MAX = R_OUTER - R_INNER
V_MAX = R_INNER * PHI_RANGE / 2

SIPM_CHIP_SIDE = 0.59
SIPM_CHIP_GAP = 0.05
SIPM_SQUARE_HALF_SIDE = 0.59
"""Half the side of the square that has the area of the four chips of one SiPM."""
PMT_RADIUS = 2.3
"""Photocathode radius."""
PMT_RADIUS_ANALYSIS = 2.25
"""The radius that the MEG II analysis software uses."""

FIDUCIAL_U = 23.9
FIDUCIAL_V = 67.9

FACE_NAMES = ("inner", "outer", "upstream", "downstream", "top", "bottom")
"""Name of each face; its index is the face code."""
INNER, OUTER, UPSTREAM, DOWNSTREAM, TOP, BOTTOM = range(6)

INNER_SHAPE = (93, 44)
OUTER_COARSE_SHAPE = (24, 9)
OUTER_CENTRE_SHAPE = (6, 5)
OUTER_FINE_SHAPE = (72, 45)
END_SHAPE = (24, 6)
HEXAGON_ROWS = (11, 12, 11, 12, 13, 14)
"""Sensors in the six rows of the top and bottom faces, innermost row first."""

FIRST_OUTER_COARSE = 4092
FIRST_UPSTREAM = 4308
FIRST_DOWNSTREAM = 4452
FIRST_TOP = 4596
FIRST_BOTTOM = 4669
FIRST_OUTER_CENTRE = 4742

INNER_Z_PITCH = 66.43 / INNER_SHAPE[1]
INNER_PHI_PITCH = PHI_RANGE / INNER_SHAPE[0]
OUTER_Z_PITCH = 10.356
COARSE_PHI_PITCH = PHI_RANGE / OUTER_COARSE_SHAPE[0]
"""Of the outer face and of the end faces."""
CENTRE_Z_PITCH = 6.2
CENTRE_PHI_PITCH = COARSE_PHI_PITCH * 2 / 3
END_FIRST_R = 69.53
END_R_PITCH = 6.684
HEXAGON_FIRST_R = 68.27
HEXAGON_R_PITCH = 6.91
HEXAGON_Z_PITCH = 6.12
