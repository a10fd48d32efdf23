import base64
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import H36M_17, SMPL_24
from posecore.export import (
    BodyMotion,
    Scene,
    SceneBodies,
    SceneCamera,
    SceneMeshes,
    SceneSkeletons,
    write_html,
)
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import swaying_body, with_pose_blend_shapes

ROOT = Path(__file__).parents[3]
HOSTILE = "a</script><script>window.harmed = true</script><!--<img src=x onerror='window.harmed = true'>&\u2028.jpg"


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


def repeated(motion: BodyMotion, frames: int, seed: int = 0) -> BodyMotion:
    """So many frames, each unlike any other."""
    noise = axis_angle_to_rotmat(0.1 * torch.randn(frames, 23, 3, generator=torch.Generator().manual_seed(seed)))
    rows = torch.arange(frames) % motion.num_frames
    return replace(
        motion,
        global_orient=motion.global_orient[rows],
        body_pose=motion.body_pose[rows] @ noise,
        transl=motion.transl[rows],
        betas=motion.betas[:1],
    )


def skeletons(hypotheses: int = 4, frames: int = 3) -> SceneSkeletons:
    generator = torch.Generator().manual_seed(1)
    joints = 0.4 * torch.randn(hypotheses, frames, 17, 3, generator=generator) + torch.tensor((0.2, 0.1, 4.0))
    return SceneSkeletons("anna", joints, H36M_17, chosen=torch.arange(frames) % hypotheses)


def camera(photo: bool = True, centre: tuple[float, float] = (80.0, 60.0)) -> SceneCamera:
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8) if photo else None
    return SceneCamera(torch.tensor([[150.0, 0, centre[0]], [0, 150.0, centre[1]], [0, 0, 1]]), (160, 120), picture)


class Page(HTMLParser):
    """What a browser finds in a page: its scripts, and whatever points anywhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, text) for (name, attrs), text in zip(self.tags, self.texts, strict=True) if name == tag]

    @property
    def scene(self) -> dict[str, Any]:
        (text,) = [text for attrs, text in self.of("script") if attrs.get("id") == "scene"]
        content: dict[str, Any] = json.loads(text)
        return content


def array(scene: dict[str, Any], entry: dict[str, Any]) -> np.ndarray:
    buffer = base64.b64decode(scene["buffer"])
    kind = np.dtype(entry["type"]).newbyteorder("<")
    assert entry["offset"] % 4 == 0
    values = np.frombuffer(buffer, kind, int(np.prod(entry["shape"])), entry["offset"]).reshape(entry["shape"])
    return values if entry["scale"] is None else values * entry["scale"]


def written(path: Path, scene: Scene) -> Page:
    write_html(path, scene)
    return Page(path.read_text(encoding="utf-8"))


def test_bodies_come_back(tmp_path: Path, model: BodyModel) -> None:
    first = swaying_body(model, frames=5, first_frame=7)
    motions = [first, repeated(first, 5, seed=1), replace(first, betas=first.betas + 1)]
    chosen = torch.tensor((2, 2, 0, 1, 1))
    scene = Scene("t", "m", [SceneBodies(motions, chosen)], fps=25.0, pick="nearest to the keypoints")
    content = written(tmp_path / "a.html", scene).scene
    (person,), (surface,) = content["people"], content["surfaces"]
    assert (content["fps"], content["pick"], content["camera"]) == (25.0, "nearest to the keypoints", None)
    assert (person["name"], person["first_frame"], person["num_frames"], person["num_hypotheses"]) == ("anna", 7, 5, 3)
    assert array(content, person["chosen"]).tolist() == chosen.tolist()
    assert surface["parents"] == list(first.parents)
    np.testing.assert_array_equal(array(content, surface["faces"]).reshape(-1, 3), model.faces)
    weights = np.zeros((len(model.v_template), 24))
    np.add.at(
        weights,
        (np.arange(len(weights))[:, None], array(content, surface["skin_joints"])),
        array(content, surface["skin_weights"]),
    )
    np.testing.assert_allclose(weights, model.lbs_weights, atol=3e-5)
    for number, motion in enumerate(motions):
        shape = person["shapes"][person["shape_of"][number]]
        np.testing.assert_allclose(array(content, shape["vertices"]), motion.rest_vertices, atol=5e-5)
        np.testing.assert_allclose(array(content, shape["joints"]), motion.rest_joints, atol=5e-5)
        rotations = Rotation.from_quat(array(content, person["rotations"])[number].reshape(-1, 4)).as_matrix()
        np.testing.assert_allclose(rotations.reshape(-1, 24, 3, 3), motion.rotmat_up, atol=2e-4)
        np.testing.assert_allclose(array(content, person["roots"])[number], motion.pelvis_up, atol=1e-6)


def test_meshes_and_skeletons_come_back(tmp_path: Path) -> None:
    vertices = torch.randn(3, 2, 40, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor((0.0, 0.0, 30.0))
    faces = torch.arange(39).reshape(-1, 3)
    people = [SceneMeshes("a", vertices, faces, first_frame=3), SceneMeshes("b", vertices + 1, faces), skeletons()]
    content = written(tmp_path / "a.html", Scene("t", "m", people)).scene
    assert len(content["surfaces"]) == 1  # both meshes have the same triangles
    up = np.array((1, -1, -1))
    for person, points in zip(content["people"], (vertices, vertices + 1, people[2].joints_cam), strict=True):
        stored = array(content, person["joints" if person["kind"] == "joints" else "vertices"])
        positions = stored + array(content, person["roots"])[:, :, None]
        np.testing.assert_allclose(positions, points.numpy() * up, atol=1e-4)
    assert [person["first_frame"] for person in content["people"]] == [3, 0, 0]
    assert array(content, content["people"][0]["chosen"]).tolist() == [0, 0]
    assert content["people"][2]["parents"] == list(H36M_17.parents)
    sides = content["people"][2]["sides"]
    assert (sides[H36M_17.index("l_knee")], sides[H36M_17.index("r_knee")], sides[0]) == ("left", "right", None)


def test_the_photograph_and_the_camera_come_back(tmp_path: Path) -> None:
    seen = camera(centre=(70.0, 50.0))
    scene = Scene("t", "m", [skeletons()], camera=seen, camera_statement="from a file", camera_assumed=False)
    content = written(tmp_path / "a.html", scene).scene
    assert (content["camera_statement"], content["camera_assumed"]) == ("from a file", False)
    assert content["camera"]["focal_and_centre"] == [150.0, 150.0, 70.0, 50.0]
    head, data = content["camera"]["photo"].split(",")
    assert head == "data:image/jpeg;base64"
    (tmp_path / "a.jpg").write_bytes(base64.b64decode(data))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (160, 120)
        assert np.abs(np.asarray(picture).astype(float).mean() - seen.photo.mean()) < 3


def test_pages_stay_small(tmp_path: Path, model: BodyModel) -> None:
    blended = with_pose_blend_shapes(model)
    film = repeated(swaying_body(blended), 300)
    write_html(tmp_path / "film.html", Scene("t", "m", [SceneBodies([film])], fps=25.0))
    assert (tmp_path / "film.html").stat().st_size < 5e6
    seen = replace(camera(), photo=np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8))
    still = [repeated(swaying_body(blended), 1, seed) for seed in range(25)]
    write_html(tmp_path / "still.html", Scene("t", "m", [SceneBodies(still)], fps=25.0, camera=seen))
    assert (tmp_path / "still.html").stat().st_size < 8e6
    vertices = torch.rand(25, 1, 6890, 3)
    write_html(tmp_path / "meshes.html", Scene("t", "m", [SceneMeshes("a", vertices, model.faces)], camera=seen))
    assert (tmp_path / "meshes.html").stat().st_size < 8e6


def test_hypotheses_share_the_body(tmp_path: Path, model: BodyModel) -> None:
    motion = repeated(swaying_body(model), 1)
    sizes = []
    for count in (1, 25):
        write_html(tmp_path / "a.html", Scene("t", "m", [SceneBodies([motion] * count)], fps=25.0))
        sizes.append((tmp_path / "a.html").stat().st_size)
    assert sizes[1] - sizes[0] < 25 * 400


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = written(tmp_path / "a.html", Scene("t", "m", [skeletons()], camera=camera()))
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in {"src", "href", "srcset"}]
    assert links == ["data:,"]
    (policy,) = [
        attrs["content"] for attrs, _ in page.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules  # falls back to none
    ((_, script),) = [(attrs, text) for attrs, text in page.of("script") if "type" not in attrs]
    assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert "Permission is hereby granted" in script  # three.js's licence goes with every copy


def test_texts_are_no_markup(tmp_path: Path) -> None:
    person = replace(skeletons(), name=HOSTILE)
    scene = Scene(HOSTILE, HOSTILE, [person], camera_statement=HOSTILE, pick=HOSTILE)
    page = written(tmp_path / "a.html", scene)
    assert len(page.of("script")) == 2
    assert not page.of("img")
    assert page.of("title")[0][1] == HOSTILE
    content = page.scene
    found = [content[name] for name in ("title", "method", "camera_statement", "pick")] + [content["people"][0]["name"]]
    assert found == [HOSTILE] * 5


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("an older page")
    write_html(tmp_path / "a.html", Scene("t", "m", [skeletons()]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert "an older page" not in (tmp_path / "a.html").read_text()
    with pytest.raises(OSError, match="cannot be written"):
        write_html(tmp_path / "nowhere" / "a.html", Scene("t", "m", [skeletons()]))


def test_wrong_scenes_are_refused(model: BodyModel) -> None:
    motion = swaying_body(model, frames=4)
    with pytest.raises(ValueError, match="hypotheses: is empty"):
        SceneBodies([])
    with pytest.raises(ValueError, match="number 1 has another body model"):
        SceneBodies([motion, replace(motion, model=replace(model))])
    for change, match in (
        ({"name": "bob"}, "has name 'bob', number 0 has 'anna'"),
        ({"first_frame": 3}, "has first_frame 3"),
        ({"fps": 50.0}, "has fps 50.0"),
    ):
        with pytest.raises(ValueError, match=match):
            SceneBodies([motion, replace(motion, **change)])
    with pytest.raises(ValueError, match="has num_frames 2"):
        SceneBodies([motion, repeated(motion, 2)])
    with pytest.raises(ValueError, match="chosen: has 3 entries for 4 frames"):
        SceneBodies([motion], torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="valid are 0 to 3"):
        replace(skeletons(), chosen=torch.tensor((0, 4, 0)))
    with pytest.raises(ValueError, match="joints_cam: has 17 joints; smpl24 has 24"):
        replace(skeletons(), joint_set=SMPL_24)
    with pytest.raises(ValueError, match="joints_cam: holds a value"):
        replace(skeletons(), joints_cam=torch.full((1, 3, 17, 3), torch.nan), chosen=None)
    with pytest.raises(ValueError, match="vertices_cam: has shape"):
        SceneMeshes("a", torch.zeros(0, 1, 5, 3), torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="focal lengths must be positive"):
        SceneCamera(-torch.eye(3), (10, 10))
    with pytest.raises(ValueError, match="width and height must be positive"):
        SceneCamera(torch.eye(3), (0, 10))
    with pytest.raises(ValueError, match="people: is empty"):
        Scene("t", "m", [])
    with pytest.raises(ValueError, match="fps: is 0"):
        Scene("t", "m", [skeletons()], fps=0.0)
    with pytest.raises(ValueError, match=r"'anna' moves at 25\.0"):
        Scene("t", "m", [SceneBodies([motion])], fps=30.0)


def test_the_program_is_what_its_sources_give(tmp_path: Path) -> None:
    folder = ROOT / "tools" / "viewer"
    if not (folder / "node_modules").is_dir() or shutil.which("node") is None:
        pytest.skip("needs node and 'npm ci' in tools/viewer")
    subprocess.run(["node", "build.js", tmp_path / "viewer.js"], cwd=folder, check=True, capture_output=True)
    bundled = ROOT / "packages" / "core" / "posecore" / "export" / "assets" / "viewer.js"
    assert (tmp_path / "viewer.js").read_bytes() == bundled.read_bytes(), "run: make viewer"
