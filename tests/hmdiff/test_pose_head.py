import pytest
import torch

from hmdiff.pose_head import PoseHead


@pytest.fixture
def head() -> PoseHead:
    torch.manual_seed(0)
    return PoseHead(in_channels=12, num_joints=3, channels=8, depth_range=0.7).eval()


def test_seven_cells_become_fifty_six(head: PoseHead, generator: torch.Generator) -> None:
    prior = head(torch.randn(2, 12, 7, 7, generator=generator))
    assert prior.xy.shape == prior.z.shape == (2, 3, 56, 56)
    assert prior.side.shape == (2,)
    assert prior.depth_range == 0.7
    assert prior.xy.dtype == prior.z.dtype == prior.side.dtype == torch.float32


def test_begins_nearly_uniform_and_two_metres_wide(head: PoseHead, generator: torch.Generator) -> None:
    prior = head(torch.randn(2, 12, 7, 7, generator=generator))
    assert prior.xy.abs().max() < 0.1
    assert prior.xy.std() > 0
    torch.testing.assert_close(prior.mean()[..., :2], torch.full((2, 3, 2), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(prior.side, torch.full((2,), 2.0), atol=0.02, rtol=0)


def test_heatmaps_are_the_first_half_places_and_the_second_depths(head: PoseHead) -> None:
    with torch.no_grad():
        head.heatmaps.weight.zero_()
        assert head.heatmaps.bias is not None
        head.heatmaps.bias.copy_(torch.arange(6.0))
    prior = head(torch.zeros(1, 12, 2, 2))
    assert prior.xy[0, :, 0, 0].tolist() == [0, 1, 2]
    assert prior.z[0, :, 0, 0].tolist() == [3, 4, 5]


def test_a_place_in_the_features_is_the_place_in_the_heatmaps(head: PoseHead) -> None:
    """What one cell says reaches the heatmaps' cells about it and no others."""
    f_c = torch.zeros(1, 12, 7, 7)
    changed = f_c.clone()
    changed[0, :, 2, 5] = 10.0
    apart = (head(changed).xy - head(f_c).xy).abs().sum(dim=(0, 1))
    rows, columns = (apart > 0).nonzero(as_tuple=True)
    for cells, cell in ((rows, 2), (columns, 5)):
        assert 8 * cell - 7 <= cells.min() <= 8 * cell
        assert 8 * cell + 7 <= cells.max() <= 8 * cell + 14
    assert head(changed).side.item() == pytest.approx(head(f_c).side.item()), "begins as a constant"


def test_every_parameter_learns(head: PoseHead, generator: torch.Generator) -> None:
    head.train()
    prior = head(torch.randn(2, 12, 7, 7, generator=generator))
    torch.manual_seed(1)
    (prior.xy * torch.randn_like(prior.xy) + prior.z.square()).sum().add(prior.side.sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("depth_range", [0.0, -1.0])
def test_depth_has_a_range(depth_range: float) -> None:
    with pytest.raises(ValueError, match=f"depth_range must be above 0 m, got {depth_range}"):
        PoseHead(in_channels=12, num_joints=3, depth_range=depth_range)
