from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sadm_ray.data.read import rigid_registration
from sadm_ray.data.read.rigid_registration import register_rigid, require_registration
from sadm_ray.errors import ConfigError

pytest.importorskip("SimpleITK")

SHAPE = (40, 44, 24)  # x y z
AFFINE = np.array([[-1.5, 0.2, 0, 60], [0.2, 1.5, 0, -40], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
AFFINE[:3, :2] *= 1.5 / np.linalg.norm(AFFINE[:3, :2], axis=0)


def head() -> np.ndarray:
    """A head with inner structure, x y z."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    radius = np.sqrt(x**2 / 0.5 + y**2 / 0.7 + z**2 / 0.5)
    inside = (
        300 * (radius < 1) + 400 * (radius < 0.85) - 350 * (((x - 0.2) / 0.2) ** 2 + (y / 0.35) ** 2 + z**2 / 0.2 < 1)
    )
    spot = 250 * (((x + 0.3) ** 2 + (y - 0.3) ** 2 + (z + 0.2) ** 2) < 0.03)
    return ndimage.gaussian_filter((inside + spot).astype(np.float32), 0.7)


def displaced(
    volume: np.ndarray, angles: tuple[float, float, float], shift: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The head turned about the centre and shifted (mm), and the map from its old place to its new one."""
    centre = (AFFINE @ [*(np.array(SHAPE) / 2), 1])[:3]
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    moved[:3, 3] = centre - moved[:3, :3] @ centre + shift
    index = np.linalg.inv(AFFINE) @ np.linalg.inv(moved) @ AFFINE
    return ndimage.affine_transform(volume, index[:3, :3], index[:3, 3], order=1), moved


def as_stored(volume: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(volume.T.astype(np.float32))


@pytest.mark.parametrize(
    ("angles", "shift"), [((0, 0, 0), (4.0, -3.0, 2.0)), ((3, -4, 6), (2.0, 5.0, -3.0)), ((0, 0, 12), (0.0, 0.0, 0.0))]
)
def test_a_known_displacement_is_found_whatever_the_gain(
    angles: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    visit, moved = displaced(head(), angles, shift)
    found = register_rigid(as_stored(head()), AFFINE, as_stored(0.3 * visit + 20), AFFINE)
    assert found is not None
    corners = np.array([[x, y, z, 1] for x in (8, 32) for y in (8, 36) for z in (5, 19)]).T
    off = np.linalg.norm(((found - moved) @ AFFINE @ corners)[:3], axis=0).max()
    assert off < 0.75, "half a voxel"
    again = register_rigid(as_stored(head()), AFFINE, as_stored(0.3 * visit + 20), AFFINE)
    np.testing.assert_array_equal(found, again)


def test_a_sheared_grid_is_left_to_its_header() -> None:
    sheared = AFFINE.copy()
    sheared[0, 2] += 1.0
    assert register_rigid(as_stored(head()), sheared, as_stored(head()), AFFINE) is None


def test_a_library_that_is_missing_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    require_registration("rigid")
    monkeypatch.setattr(rigid_registration, "find_spec", lambda name: None)
    require_registration("header")
    with pytest.raises(ConfigError, match=r"sadm-ray\[register\]"):
        require_registration("rigid")
