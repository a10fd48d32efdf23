import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from posecore.body.skeletons import H36M_17
from posecore.render.joint_plots import joint_bars, joint_heat_map
from posecore.render.strips import denoising_strip


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]


def test_the_heat_map_names_joints_steps_and_the_last_errors() -> None:
    errors = torch.tensor([[10.0, 400.0, 30.0], [12.0, 51.0, float("nan")]])
    figure = joint_heat_map(errors, [100, 200], ["root", "l_hip", "r_hip"], "val/x, error")
    figure.canvas.draw()
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["root", "l hip", "r hip"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "200"]
    assert "mean 31.5 mm" in ax.get_title(loc="left")
    (right,) = ax.child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["12", "51", "nan"]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).T[:, :2], errors[:, :2])


def test_bars_are_as_long_as_the_numbers() -> None:
    bars = {"visible": torch.tensor([1.0, 2.0]), "occluded": torch.tensor([3.0, float("nan")])}
    figure = joint_bars(bars, ["a", "b"])
    assert [patch.get_width() for patch in figure.axes[0].patches] == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize("columns", [0, 3])
def test_a_heat_map_that_does_not_fit(columns: int) -> None:
    with pytest.raises(ValueError, match="errors must be columns x joints"):
        joint_heat_map(torch.zeros(2, 2), list(range(columns)), ["a", "b"])


@pytest.mark.parametrize("bars", [{}, {"one": torch.zeros(3)}])
def test_bars_that_do_not_fit(bars: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="a value for each of 2 joints"):
        joint_bars(bars, ["a", "b"])


def test_a_strip_shows_every_level_and_survives_wild_poses() -> None:
    truth = torch.randn(17, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    noisy = torch.stack((truth, truth + 1e8, torch.full_like(truth, torch.nan)))
    figure = denoising_strip(truth, noisy, noisy, H36M_17, (0.1, 0.5, 0.9), "val/x")
    headings = [ax.get_title() for ax in figure.axes]
    assert headings.count("truth") == 1
    assert {"t = 0.10 T", "t = 0.50 T", "t = 0.90 T"} <= set(headings)
    assert pixels(figure).min() < 128
    with pytest.raises(ValueError, match="levels must be one per pose, got 2 for 3 and 3"):
        denoising_strip(truth, noisy, noisy, H36M_17, (0.1, 0.5))
