"""Pages as a person meets them: in Chromium, from disk, without a network."""

import io
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import H36M_17
from posecore.body.smpl import SMPLLayer
from posecore.export import (
    BodyMotion,
    Scene,
    SceneBodies,
    SceneCamera,
    SceneMeshes,
    SceneSkeletons,
    write_html,
)
from posecore.geometry.camera import project
from posecore.testing import swaying_body, with_pose_blend_shapes

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
    ),
]
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--hide-scrollbars --disable-dev-shm-usage"
)
FPS, FRAMES, HYPOTHESES = 25.0, 40, 3
PX = (320, 240)
K = torch.tensor([[300.0, 0, 130], [0, 300.0, 140], [0, 0, 1]])


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason='needs selenium: pip install -e ".[dev]"')
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=CHROMEDRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        no_network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", no_network)
        yield driver


class Browser:
    """A page that is open."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # so that nothing plays unasked
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(path.as_uri())
        self.drawn()

    def js(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def drawn(self) -> None:
        """Waits until what was asked for is on the screen."""
        self.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 60))")

    def until(self, condition: str) -> None:
        """Waits for something that the page does in its own time."""
        self.driver.set_script_timeout(20)
        wait = "const [done] = arguments, look = () => (%s ? done() : setTimeout(look, 20)); look()"
        self.driver.execute_async_script(wait % condition)

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()
        self.drawn()

    def press(self, key: str) -> None:
        self.driver.find_element("id", "canvas").send_keys(key)
        self.drawn()

    def picture(self, element: str = "stage") -> np.ndarray:
        self.drawn()
        png = self.driver.find_element("id", element).screenshot_as_png
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def browser(driver: Any) -> Iterator[Browser]:
    opened = Browser(driver)
    opened.complaints()
    yield opened
    assert opened.complaints() == []


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return with_pose_blend_shapes(load_body_model())


@pytest.fixture(scope="module")
def motions(model: BodyModel) -> list[BodyMotion]:
    return [swaying_body(model, FRAMES, first_frame=10, seed=seed) for seed in range(HYPOTHESES)]


@pytest.fixture(scope="module")
def film(motions: list[BodyMotion], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.html"
    people = [
        SceneBodies(motions, chosen=torch.arange(FRAMES) % HYPOTHESES),
        SceneSkeletons("bob", joints(FRAMES) + torch.tensor((1.5, 0.0, 0.0)), H36M_17, first_frame=10),
    ]
    write_html(path, Scene("Two people", "ScoreHMR", people, FPS, camera_statement="assumed: 50 degrees"))
    return path


def joints(frames: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(5, frames, 17, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor((0.2, 0, 4.0))


def background_differs(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture - picture[5, 5]).max(axis=-1) > 40


def test_vertices_are_where_the_body_model_puts_them(browser: Browser, film: Path, motions: list[BodyMotion]) -> None:
    browser.open(film)
    for number, frame in ((0, 10), (2, 30)):
        browser.js(f"viewer.setHypothesis({number}); viewer.setFrame({frame})")
        found = np.array(browser.js(f"return viewer.people[0].bodies[{number}].positions()")).reshape(-1, 3)
        motion, row = motions[number], frame - 10
        body = SMPLLayer(motion.model)(
            global_orient=motion.global_orient[row],
            body_pose=motion.body_pose[row],
            betas=motion.mean_betas.float(),
            transl=motion.transl[row],
        )
        # The pelvis keeps the path that it has under each frame's own shape.
        expected = body.vertices.numpy() * (1, -1, -1)
        expected += motion.pelvis_up[row].numpy() - body.joints[0].numpy() * (1, -1, -1)
        assert np.abs(found - expected).max() < 4e-3


def test_points_are_drawn_over_their_pixels_of_the_photograph(browser: Browser, tmp_path: Path) -> None:
    photo = np.zeros((PX[1], PX[0], 3), dtype=np.uint8)
    scene = Scene("t", "ZeDO", [SceneSkeletons("anna", joints(), H36M_17)], camera=SceneCamera(K, PX, photo))
    write_html(tmp_path / "a.html", scene)
    browser.open(tmp_path / "a.html")
    assert browser.js("return viewer.world.view") == "camera"
    points_cam = joints()[0, 0]
    found = browser.js("return viewer.people[0].bodies[0].positions()")
    np.testing.assert_allclose(np.reshape(found, (-1, 3)), points_cam.numpy() * (1, -1, -1), atol=1e-4)
    state = browser.js("""
        const { eye, photo } = viewer.world, { width, height } = photo.geometry.parameters;
        const list = (matrix) => matrix.toArray();
        return [list(eye.projectionMatrix), list(eye.matrixWorldInverse), photo.position.toArray(), width, height]
    """)
    clip_from_world = np.reshape(state[0], (4, 4)).T @ np.reshape(state[1], (4, 4)).T
    middle, size = np.array(state[2]), np.array((state[3], -state[4], 0))

    def on_screen(points: np.ndarray) -> np.ndarray:
        clip = np.concatenate((points, np.ones((len(points), 1))), axis=1) @ clip_from_world.T
        return clip[:, :2] / clip[:, 3:]

    pixels = project(points_cam, K).numpy() / PX - 0.5
    on_photo = middle + np.concatenate((pixels, np.zeros((17, 1))), axis=1) * size
    np.testing.assert_allclose(on_screen(points_cam.numpy() * (1, -1, -1)), on_screen(on_photo), atol=1e-4)
    corners = middle + np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [-0.5, 0.5, 0], [0.5, 0.5, 0]]) * size
    assert np.abs(on_screen(corners)).max() < 1  # all of the photograph is seen


def test_the_body_is_seen_and_moves(browser: Browser, film: Path) -> None:
    browser.open(film)
    first = browser.picture()
    height, width = first.shape[:2]
    seen = background_differs(first)[height // 5 : -height // 5, width // 5 : -width // 5]
    assert seen.mean() > 0.03
    assert browser.js("return [viewer.playing, viewer.time, viewer.frame]") == [False, 10 / FPS, 10]
    browser.click("#play")
    assert browser.js("return viewer.playing")
    browser.until("viewer.frame > 15")
    browser.click("#play")
    assert not browser.js("return viewer.playing")
    assert 10 / FPS < browser.js("return viewer.time") <= (10 + FRAMES - 1) / FPS
    assert (np.abs(browser.picture() - first).max(axis=-1) > 40).mean() > 0.005


def test_time_goes_by_slider_and_keys(browser: Browser, film: Path) -> None:
    browser.open(film)
    browser.js("const t = document.getElementById('time'); t.value = 20; t.dispatchEvent(new Event('input'))")
    assert browser.js("return viewer.frame") == 20
    assert browser.js("return document.getElementById('clock').value") == "frame 20 · 0.80 s"
    browser.press("\ue014")  # right
    assert browser.js("return viewer.frame") == 21
    browser.press("\ue012")  # left
    browser.press("\ue012")
    assert browser.js("return viewer.frame") == 19
    browser.click("[data-view='front']")
    browser.driver.switch_to.active_element.send_keys("\ue014")
    assert browser.js("return viewer.frame") == 20
    browser.press(" ")
    assert browser.js("return viewer.playing")
    browser.press(" ")
    assert not browser.js("return viewer.playing")
    browser.js("viewer.time = 1.0")
    assert browser.js("return viewer.frame") == 25
    browser.js("viewer.setFrame(10 + 39); viewer.speed = 4; viewer.play()")
    browser.until("viewer.frame < 49")  # begins anew
    assert browser.js("viewer.pause(); return viewer.frame") >= 10


def test_hypotheses_are_chosen(browser: Browser, film: Path) -> None:
    shown = "return viewer.people[0].bodies.map((body) => body.object.visible)"
    browser.open(film)
    browser.js("viewer.setFrame(11)")
    assert browser.js(shown) == [False, True, False]  # the chosen one of that frame
    one = browser.picture()
    browser.click("input[value='all']")
    assert browser.js(shown) == [True, True, True]
    assert (np.abs(browser.picture() - one).max(axis=-1) > 10).mean() > 0.01
    browser.click("input[value='one']")
    assert browser.js(shown) == [True, False, False]
    browser.press("\ue013")  # up
    browser.press("\ue013")
    assert browser.js("return viewer.hypothesis") == 2
    assert browser.js(shown) == [False, False, True]
    assert browser.js("return document.getElementById('number').value") == "2, of 0 to 4"  # bob has five
    browser.js("viewer.setHypothesis(4)")
    assert browser.js(shown) == [False, False, True]  # her last
    assert browser.js("try { viewer.setHypothesis('best') } catch (error) { return error.message }") == (
        'no hypothesis "best"'
    )


def test_buttons_and_boxes_work(browser: Browser, film: Path) -> None:
    browser.open(film)
    pictures = []
    for view in ("front", "side", "top"):
        browser.click(f"[data-view='{view}']")
        assert browser.js(f"return document.querySelector('[data-view={view}]').ariaPressed") == "true"
        pictures.append(browser.picture())
    for one, other in itertools.combinations(pictures, 2):
        assert (np.abs(one - other).max(axis=-1) > 40).mean() > 0.01
    assert not browser.js("return document.querySelector('[data-view=camera]').checkVisibility()")  # none is known
    browser.click("#people label:nth-of-type(1) input")
    assert browser.js("return viewer.people.map((person) => person.group.visible)") == [False, True]
    browser.click("#people label:nth-of-type(2) input")
    browser.click("#floor")
    assert background_differs(browser.picture()).sum() == 0  # nobody is left
    browser.click("#people label:nth-of-type(1) input")
    browser.click("#glass")
    assert background_differs(browser.picture()).mean() > 0
    assert browser.js("return document.getElementById('facts').innerText").split("\n")[:2] == [
        "Camera, assumed",
        "assumed: 50 degrees",
    ]


def test_a_still_picture_has_no_time(browser: Browser, tmp_path: Path, model: BodyModel) -> None:
    vertices = (model.v_template * torch.tensor((1, -1, -1)) + torch.tensor((0.0, 0.0, 4.0))).expand(6, 1, -1, -1)
    scene = Scene("t", "HMDiff", [SceneMeshes("anna", vertices, model.faces)])
    write_html(tmp_path / "a.html", scene)
    browser.open(tmp_path / "a.html", dark=True)
    assert not browser.js("return document.getElementById('transport').checkVisibility()")
    browser.press(" ")
    assert not browser.js("return viewer.playing")
    assert browser.picture()[5, 5].max() < 60  # dark
    assert background_differs(browser.picture()).mean() > 0.02


def test_it_fits_a_phone(browser: Browser, film: Path) -> None:
    browser.open(film, width=390, height=844)
    assert browser.js("return document.documentElement.scrollWidth") == 390
    assert browser.picture().shape[1] == 390
    small = browser.js("""
        return [...document.querySelectorAll('button, select')].filter((one) => one.checkVisibility())
            .map((one) => one.getBoundingClientRect()).filter((box) => box.height < 34 || box.right > 390).length
    """)
    assert small == 0
    unnamed = browser.js("""
        return [...document.querySelectorAll('button, input, select, canvas')]
            .filter((one) => !one.ariaLabel && !one.labels?.length && !one.textContent.trim()).length
    """)
    assert unnamed == 0


def test_without_webgl_the_page_says_so(browser: Browser, film: Path) -> None:
    command, source = "Page.addScriptToEvaluateOnNewDocument", "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.driver.execute_cdp_cmd(command, {"source": source})
    browser.open(film)
    browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert "This page needs WebGL" in browser.driver.find_element("id", "failure").text
    assert browser.complaints()


def test_texts_do_not_run_and_nothing_is_loaded(browser: Browser, tmp_path: Path) -> None:
    hostile = "a</script><script>window.harmed = true</script><!--<img src=x onerror='window.harmed = true'>.jpg"
    person = replace(SceneSkeletons("anna", joints(), H36M_17), name=hostile)
    seen = SceneCamera(K, PX, np.full((PX[1], PX[0], 3), 200, dtype=np.uint8))
    write_html(
        tmp_path / "a.html", Scene(hostile, hostile, [person], camera=seen, camera_statement=hostile, pick=hostile)
    )
    browser.open(tmp_path / "a.html")
    assert browser.js("return [window.harmed ?? null, document.title, document.querySelector('h1').textContent]") == [
        None,
        hostile,
        hostile,
    ]
    resources = browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name.slice(0, 5))")
    assert set(resources) <= {"data:"}
    blocked = "return fetch('https://example.org/').then(() => 'loaded', () => 'blocked')"
    assert browser.js(blocked) == "blocked"
    assert "Content Security Policy" in "".join(browser.complaints())  # refused before the network is asked
