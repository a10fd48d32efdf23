import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from posecore.body.skeletons import COCO_17, H36M_17
from posecore.render.panels import affinity_plot, curve_plot, figure_png, hypothesis_panel, read_photo

DEMO_DATA = Path(__file__).parents[3] / "tools" / "demo_data"


def panel(people: int = 1, num_hypotheses: int = 3, **changes: Any) -> Figure:
    generator = torch.Generator().manual_seed(0)
    arguments: dict[str, Any] = {
        "image": np.full((240, 320, 3), 200, dtype=np.uint8),
        "keypoints_2d": torch.rand(people, 17, 2, generator=generator) * 200,
        "confidence": torch.ones(people, 17),
        "hypotheses": torch.rand(people, num_hypotheses, 17, 3, generator=generator) + torch.tensor([0.0, 0.0, 4.0]),
        "best": torch.zeros(people, dtype=torch.int64),
        "joint_set": H36M_17,
        "title": "A $title with a dollar",
    }
    return hypothesis_panel(**(arguments | changes))


def texts(figure: Figure) -> str:
    titles = [ax.get_title() + ax.get_xlabel() for ax in figure.axes]
    return "\n".join(titles + [text.get_text() for text in figure.texts])


@pytest.mark.parametrize(("people", "hypotheses"), [(1, 1), (2, 5)])
def test_one_row_per_person(people: int, hypotheses: int) -> None:
    figure = panel(people, hypotheses, labels=[f"person {i} of $5" for i in range(people)])
    assert len(figure.axes) == 5 * people
    assert "person 0 of $5" in texts(figure)
    image = Image.open(io.BytesIO(figure_png(figure, dpi=50)))
    assert image.format == "PNG"
    assert image.width > image.height
    assert np.asarray(image.convert("L")).std() > 5


def assert_text_lies_inside(figure: Figure) -> None:
    """All text within the figure's edges, and none of the figure's own texts over another."""
    figure.canvas.draw()
    width, height = figure.bbox.size
    axes_texts = [text for ax in figure.axes for text in (ax.title, ax.xaxis.label)]
    boxes = [text.get_window_extent() for text in (*figure.texts, *axes_texts) if text.get_text()]
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])


CAMERA = "Camera: focal length assumed: image diagonal sqrt(width^2 + height^2) = 724.1 px; center assumed. "


@pytest.mark.parametrize(
    ("title", "subtitle", "label"),
    [
        ("ZeDO, 50 hypotheses", CAMERA, "person 0"),
        ("A long $title of $5 " * 12, CAMERA * 5, "person " * 60),
        ("W" * 300, "i" * 900, "m" * 300),
        ("ZeDO", "", ""),
        ("", CAMERA, "   "),
        ("", "", "person 0"),
    ],
    ids=["usual", "long", "one word", "title only", "subtitle only", "neither"],
)
def test_no_text_is_cut_off(title: str, subtitle: str, label: str) -> None:
    figure = panel(title=title, subtitle=subtitle, labels=[label])
    assert_text_lies_inside(figure)
    shown = "".join(text.get_text() for text in figure.texts).replace(" ", "")
    assert title.replace(" ", "") in shown
    assert subtitle.replace(" ", "") in shown


def test_a_narrow_photo_has_its_label_inside_the_picture() -> None:
    portrait = np.full((400, 60, 3), 200, dtype=np.uint8)  # stands in the middle of its place
    assert_text_lies_inside(panel(image=portrait, labels=["person " * 60]))


def test_long_headings_take_room_of_their_own() -> None:
    short, long = panel(title="ZeDO"), panel(title="ZeDO", subtitle=CAMERA * 3)
    assert long.get_figheight() > short.get_figheight()
    for a, b in zip(short.axes, long.axes, strict=True):
        inches = [ax.get_position().bounds * np.tile(f.get_size_inches(), 2) for ax, f in ((a, short), (b, long))]
        np.testing.assert_allclose(inches[0], inches[1])


def test_people_left_out_are_counted() -> None:
    figure = panel(4, 1, max_people=2)
    assert len(figure.axes) == 10
    assert "2 of 4 people shown" in texts(figure)
    assert "people shown" not in texts(panel(2, 1))


def test_stages_have_one_scale_and_hold_every_hypothesis() -> None:
    figure = panel(1, 4)
    figure_png(figure, dpi=30)
    for ax in figure.axes[1:]:
        box = ax.get_window_extent()
        x, y = ax.get_xlim(), ax.get_ylim()
        assert box.width / (x[1] - x[0]) == pytest.approx(box.height / (y[1] - y[0]), rel=1e-3)
    assert len({ax.get_ylim() for ax in figure.axes[1:]}) == 1
    cloud = figure.axes[4].collections[0].get_paths()
    points = np.concatenate([path.vertices for path in cloud])
    assert np.abs(points[:, 0]).max() < figure.axes[4].get_xlim()[1]
    assert points[:, 1].max() < figure.axes[4].get_ylim()[1]


def test_photo_axes_stay_inside_the_photo() -> None:
    figure = panel(keypoints_2d=torch.rand(1, 17, 2) * 50 + torch.tensor([260.0, 180.0]))
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert 0 <= left < right <= 320
    assert 0 <= top < bottom <= 240


def test_joints_outside_the_photo_are_clipped_to_it() -> None:
    inside = torch.rand(1, 17, 2) * 100 + 60
    pictures = []
    for reprojected in (inside, 40 * (inside - 110) + 110):
        figure = panel(reprojected_px=reprojected, keypoints_2d=inside)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
        box = figure.axes[0].get_window_extent()
    differs = (pictures[0] != pictures[1]).any(axis=-1)
    assert differs.any()
    rows, columns = np.nonzero(differs[::-1])  # from the bottom, as the box counts
    assert box.x0 - 1 <= columns.min() <= columns.max() <= box.x1 + 1
    assert box.y0 - 1 <= rows.min() <= rows.max() <= box.y1 + 1
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert 0 <= left < right <= 320
    assert 0 <= top < bottom <= 240


@pytest.mark.parametrize(
    "changes",
    [
        {"image": None},
        {"confidence": torch.zeros(1, 17)},
        {"keypoint_set": COCO_17, "reprojected_px": torch.rand(1, 17, 2) * 200},
    ],
    ids=["no photo", "no joint seen", "other keypoints"],
)
def test_variants(changes: dict[str, Any]) -> None:
    figure = panel(**changes)
    assert len(figure_png(figure, dpi=40)) > 5000
    assert ("reprojected" in str([t.get_text() for t in figure.legends[0].texts])) == ("reprojected_px" in changes)


def test_input_is_not_changed() -> None:
    hypotheses = torch.rand(1, 2, 17, 3)
    before = hypotheses.clone()
    panel(hypotheses=hypotheses)
    assert torch.equal(hypotheses, before)


def test_nobody_to_draw() -> None:
    with pytest.raises(ValueError, match="hypotheses hold no person"):
        panel(0)
    with pytest.raises(ValueError, match="max_people must be at least 1, not 0"):
        panel(1, max_people=0)


def test_curves() -> None:
    figure = curve_plot(
        [1, 10, 100], {"S = 1": [3.0, 2.0, 1.0], "S = 50": [2.0, float("nan"), 0.5]}, "n", "mm", log_x=True
    )
    ax = figure.axes[0]
    assert ax.get_xscale() == "log"
    assert [line.get_label() for line in ax.lines] == ["S = 1", "S = 50"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "10", "100"]
    assert figure_png(figure)[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="curves is empty"):
        curve_plot([1.0], {}, "n", "mm")
    with pytest.raises(ValueError, match="curve 'a' has 1 values for 2 positions"):
        curve_plot([1.0, 2.0], {"a": [1.0]}, "n", "mm")


@pytest.mark.parametrize("count", [1, 3])
def test_affinities_side_by_side(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = {f"$layer {i}": (i + 1) * torch.randn(17, 17, generator=generator) for i in range(count)}
    figure = affinity_plot(matrices, H36M_17, "Affinities of $5")
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in panels] == list(matrices)
    limit = max(matrix.abs().max().item() for matrix in matrices.values())
    for ax, matrix in zip(panels, matrices.values(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix.numpy())
        assert ax.images[0].get_clim() == pytest.approx((-limit, limit))  # one scale for all, 0 in the middle
        assert [label.get_text() for label in ax.get_xticklabels()][:3] == ["pelvis", "r hip", "r knee"]
    assert panels[0].get_yticklabels()[16].get_text() == "r wrist"
    assert "Affinities of $5" in texts(figure)
    image = Image.open(io.BytesIO(figure_png(figure, dpi=40)))
    assert image.width > (count - 1) * image.height


def test_affinities_of_a_network_in_training() -> None:
    figure = affinity_plot({"learned": 2 * torch.eye(17, requires_grad=True)}, H36M_17)
    assert figure.axes[0].images[0].get_clim() == (-2, 2)


def test_affinities_of_nothing_are_drawn_white() -> None:
    figure = affinity_plot({"none": torch.zeros(17, 17)}, H36M_17)
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    assert figure_png(figure, dpi=20)[:4] == b"\x89PNG"


def test_affinities_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="matrices is empty; give at least one"):
        affinity_plot({}, H36M_17)
    with pytest.raises(ValueError, match=r"matrix 'b' has shape \(16, 16\); h36m17 needs \(17, 17\)"):
        affinity_plot({"a": torch.eye(17), "b": torch.eye(16)}, H36M_17)


def test_read_photo_of_the_demo() -> None:
    grey = read_photo(DEMO_DATA / "photographer.png")
    assert (grey.shape, grey.dtype) == ((512, 512, 3), np.uint8)
    assert bool((grey[..., 0] == grey[..., 2]).all())


def test_read_photo_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: show it turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    photo = read_photo(tmp_path / "turned.png")
    assert photo.shape == (40, 20, 3)
    assert photo[:20].min() == 255
    assert photo[20:].max() == 0


def test_photographs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no photograph at"):
        read_photo(tmp_path / "none.jpg")
    whole = (DEMO_DATA / "photographer.png").read_bytes()
    for content in (b"", b"{}", whole[: len(whole) // 2], whole[:40]):
        (tmp_path / "photo.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=r"photo\.jpg: not an image that can be read"):
            read_photo(tmp_path / "photo.jpg")


def test_needs_no_display() -> None:
    # Agg draws into memory; the figures never meet pyplot, which would look for a display.
    assert isinstance(panel().canvas, FigureCanvasAgg)
    assert isinstance(curve_plot([1], {"a": [2]}, "n", "mm").canvas, FigureCanvasAgg)


@pytest.mark.parametrize("size", [1e4, float("inf"), float("nan")])
def test_wild_poses_do_not_make_thousands_of_grid_lines(size: float) -> None:
    figure = panel(hypotheses=torch.full((1, 3, 17, 3), 1.0) * torch.arange(17)[None, None, :, None] * size)
    figure_png(figure, dpi=40)
    for ax in figure.axes:
        assert len(ax.get_xticks()) + len(ax.get_yticks()) < 50


def test_truth_and_overlays_are_drawn() -> None:
    plain = panel(people=2)
    truth = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(1))
    truth[0, 5] = torch.nan
    pictures = [np.full((60, 60, 3), shade, dtype=np.uint8) for shade in (50, 150)]
    full = panel(people=2, image=pictures, truth=truth, overlays=pictures)
    assert len(full.axes) == len(plain.axes) + 2
    assert texts(full).count("Body over the photo") == 2
    assert "truth" in [text.get_text() for text in full.legends[0].get_texts()]
    assert "truth" not in [text.get_text() for text in plain.legends[0].get_texts()]
    assert [float(ax.images[0].get_array().mean()) for ax in full.axes if ax.images] == [50, 50, 150, 150]
    figure_png(full, dpi=40)
