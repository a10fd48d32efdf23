"""Who gets a file, and which."""

from pathlib import Path

import pytest
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.export.files import OutputFolder
from posecore.training.body_files import DEFAULT_FORMATS, checked_formats, file_name, tracks_of, write_meshes


def test_formats_come_once_and_by_default() -> None:
    assert checked_formats(None) == DEFAULT_FORMATS == ("amass", "glb", "bvh", "html")
    assert checked_formats(["obj", "csv", "obj"]) == ("obj", "csv")
    assert checked_formats([]) == ()
    with pytest.raises(ValueError, match=r"formats: 'fbx' unknown; valid are amass, smpl, glb, bvh, csv"):
        checked_formats(["glb", "fbx"])


def test_rows_of_photographs_stand_for_themselves() -> None:
    tracks = tracks_of(("a", "a"), (0, 0), ("one", "two"), is_video=False)
    assert [(track.name, track.person, track.rows) for track in tracks] == [("one", "a", (0,)), ("two", "a", (1,))]


def test_tracks_are_cut_where_frames_are_missing() -> None:
    ids, frames = ("a", "b", "a", "a", "b", "a"), (4, 0, 1, 2, 1, 5)
    tracks = tracks_of(ids, frames, ("",) * 6, is_video=True)
    assert [(track.name, track.person, track.rows) for track in tracks] == [
        ("a_part1", "a", (2, 3)), ("a_part2", "a", (0, 5)), ("b", "b", (1, 4)),
    ]  # fmt: skip


def test_no_file_takes_the_place_of_another() -> None:
    tracks = tracks_of(("b/c", "b c", "B_c"), (0, 0, 0), ("",) * 3, is_video=True)
    assert [track.name for track in tracks] == ["b_c", "b_c_2", "B_c_3"]
    tracks = tracks_of(("x", "x"), (0, 0), ("one_x_frame0",) * 2, is_video=False)
    assert [track.name for track in tracks] == ["one_x_frame0", "one_x_frame0_2"]


@pytest.mark.parametrize(
    ("label", "name"), [("7", "7"), ("b/c d", "b_c_d"), ("..", "person"), (".a", "a"), ("", "person")]
)
def test_labels_become_file_names(label: str, name: str) -> None:
    assert file_name(label) == name


@pytest.mark.parametrize("is_video", [True, False])
def test_meshes_of_a_video_have_a_file_per_frame(tmp_path: Path, is_video: bool) -> None:
    model = load_body_model()
    tracks = tracks_of(("a", "a"), (7, 8), ("p_a_frame7", "p_a_frame8"), is_video)

    def bodies(row: int) -> Float[Tensor, "meshes vertices 3"]:
        return torch.stack([model.v_template + row, model.v_template - row])

    written = write_meshes(
        OutputFolder(tmp_path), tracks, (7, 8), is_video, bodies, model.faces, ("glb", "ply", "bvh"), "hyp"
    )
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    if is_video:
        assert written == ["ply/"]
        assert names == [f"ply/a/{name}.ply" for name in ("000007", "000007_hyp0", "000008", "000008_hyp0")]
    else:
        assert written == ["glb/", "ply/"]
        assert names == [
            f"{kind}/p_a_frame{frame}{which}.{kind}" for kind in ("glb", "ply") for frame in (7, 8)
            for which in ("", "_hyp0")
        ]  # fmt: skip
    mesh = trimesh.load(tmp_path / next(name for name in names if "8.ply" in name), process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert mesh.vertices == pytest.approx((model.v_template + 1).numpy() * [1, -1, -1], abs=1e-5)
