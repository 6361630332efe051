"""The sensor axis: where the 4760 sensors are, where they look, how they are arranged, and what solid angle they see.

Everything is computed once from the channel numbers (specification: positions by channel) and cached as read-only
arrays; grids and neighbours are derived from those positions.

    from shards import geometry as geo
    omega = geo.solid_angle(geo.xyz_from_uvw([[0, 0, 5]]))      # (1, 4760) sr
    inner = npho[:, geo.face_grid("inner")]                     # (events, 93, 44)
"""

from shards.geometry.constants import (
    BOTTOM,
    DOWNSTREAM,
    FACE_NAMES,
    FIDUCIAL_U,
    FIDUCIAL_V,
    INNER,
    LIGHT_SPEED,
    LIGHT_SPEED_XENON,
    N_PMT,
    N_SENSORS,
    N_SIPM,
    OUTER,
    PHI_RANGE,
    PMT_RADIUS,
    PMT_RADIUS_ANALYSIS,
    R_INNER,
    R_OUTER,
    R_STRUCTURE,
    SIPM_CHIP_GAP,
    SIPM_CHIP_SIDE,
    SIPM_SQUARE_HALF_SIDE,
    TAN_TILT,
    TOP,
    UPSTREAM,
    V_MAX,
    W_MAX,
    Z_LENGTH_INNER,
    Z_LENGTH_OUTER,
)
from shards.geometry.coordinates import in_fiducial, inside, uvw_from_xyz, xyz_from_uvw
from shards.geometry.coverage import cell_area, sensor_area
from shards.geometry.detector import Geometry, Survey, geometry_of, load, nominal, save, survey_document
from shards.geometry.grids import GRID_NAMES, face_channels, face_grid, outer_fine_cells, outer_fine_grid
from shards.geometry.hexagon import DIRECTIONS, HexGraph, hexagon
from shards.geometry.neighbours import NeighbourLists, face_centres, nearest, ring, within
from shards.geometry.positions import nominal_cylindrical, nominal_faces, nominal_normals, nominal_positions
from shards.geometry.solidangle import chips, disc, local_coordinates, rectangle, solid_angle, square
from shards.geometry.unroll import UNROLLED_GAP, Panel, Unrolled, project, unrolled

__all__ = [
    "BOTTOM",
    "DIRECTIONS",
    "DOWNSTREAM",
    "FACE_NAMES",
    "FIDUCIAL_U",
    "FIDUCIAL_V",
    "GRID_NAMES",
    "INNER",
    "LIGHT_SPEED",
    "LIGHT_SPEED_XENON",
    "N_PMT",
    "N_SENSORS",
    "N_SIPM",
    "OUTER",
    "PHI_RANGE",
    "PMT_RADIUS",
    "PMT_RADIUS_ANALYSIS",
    "R_INNER",
    "R_OUTER",
    "R_STRUCTURE",
    "SIPM_CHIP_GAP",
    "SIPM_CHIP_SIDE",
    "SIPM_SQUARE_HALF_SIDE",
    "TAN_TILT",
    "TOP",
    "UNROLLED_GAP",
    "UPSTREAM",
    "V_MAX",
    "W_MAX",
    "Z_LENGTH_INNER",
    "Z_LENGTH_OUTER",
    "Geometry",
    "HexGraph",
    "NeighbourLists",
    "Panel",
    "Survey",
    "Unrolled",
    "cell_area",
    "chips",
    "disc",
    "face_centres",
    "face_channels",
    "face_grid",
    "geometry_of",
    "hexagon",
    "in_fiducial",
    "inside",
    "load",
    "local_coordinates",
    "nearest",
    "nominal",
    "nominal_cylindrical",
    "nominal_faces",
    "nominal_normals",
    "nominal_positions",
    "outer_fine_cells",
    "outer_fine_grid",
    "project",
    "rectangle",
    "ring",
    "save",
    "sensor_area",
    "solid_angle",
    "square",
    "survey_document",
    "unrolled",
    "uvw_from_xyz",
    "within",
    "xyz_from_uvw",
]
