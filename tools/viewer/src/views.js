// The world around the people, and where it is seen from. y is up; the camera that took the picture is at the origin
// and looks along -z, as cameras of three.js do.
import {
  Box3, CircleGeometry, Color, DirectionalLight, HemisphereLight, Mesh, MeshBasicMaterial, PerspectiveCamera, PlaneGeometry,
  Scene, ShaderMaterial, ShadowMaterial, SRGBColorSpace, TextureLoader, Vector3, VSMShadowMap, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";

const FIELD_OF_VIEW = 35;
const SAMPLES = 48; // bodies whose bounds are taken for those of all
const DIRECTIONS = {
  front: [0, 0.12, 1], side: [1, 0.12, 0], top: [0, 1, 0.001], corner: [0.55, 0.22, 1],
};
const THEMES = {
  light: { background: "#eef0f4", line: "#b4bcc9", sky: "#ffffff", ground: "#b8b2aa", shadow: 0.22 },
  dark: { background: "#191d24", line: "#434d5e", sky: "#e6ecf5", ground: "#5b5850", shadow: 0.45 },
};
// Lines a metre apart, as thin at any distance, that fade out around the place that is looked at.
const GRID = {
  vertexShader: `
    varying vec2 place;
    void main() {
      vec4 world = modelMatrix * vec4(position, 1.0);
      place = world.xz;
      gl_Position = projectionMatrix * viewMatrix * world;
    }`,
  fragmentShader: `
    uniform vec3 colour;
    uniform vec3 middle;
    uniform float reach;
    varying vec2 place;
    void main() {
      vec2 width = fwidth(place);
      vec2 lines = 1.0 - smoothstep(0.2 * width, 1.2 * width, abs(fract(place - 0.5) - 0.5));
      float away = distance(place, middle.xz);
      float crowded = smoothstep(0.25, 0.7, max(width.x, width.y));
      float alpha = max(lines.x, lines.y) * (1.0 - smoothstep(0.3 * reach, reach, away)) * (1.0 - crowded);
      gl_FragColor = vec4(colour, alpha);
      #include <colorspace_fragment>
    }`,
};

export class World {
  constructor(canvas, people, range, camera) {
    this.renderer = new WebGLRenderer({ canvas, antialias: true, stencil: true });
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = VSMShadowMap;
    this.scene = new Scene();
    this.eye = new PerspectiveCamera(FIELD_OF_VIEW, 1, 0.05, 500);
    this.controls = new OrbitControls(this.eye, canvas);
    this.controls.zoomSpeed = 1.5;
    this.people = people;
    this.photoCamera = camera;
    this.view = null;
    people.forEach((person) => this.scene.add(person.group));
    this.measure(range);
    this.addLight();
    this.addFloor();
    this.addPhoto();
  }

  /** Where the people are: bounds and their corners in the world and about the point followed, and the floor's height. */
  measure([first, last]) {
    this.bounds = new Box3();
    this.corners = [];
    this.bodyCorners = [];
    const count = Math.max(...this.people.map((person) => person.count));
    const step = Math.max(1, (last - first) / Math.max(3, SAMPLES / count)), lows = [], paths = new Box3();
    for (let at = first; at <= last + 1e-6; at += step) {
      const frame = Math.round(at), box = new Box3(), point = this.point(frame);
      const there = this.people.filter((person) => person.has(frame));
      if (!there.length) continue;
      there.forEach((person) => person.addTo(box, frame, "chosen"));
      lows.push(box.min.y);
      there.forEach((person) => person.addTo(box, frame, "all"));
      this.bounds.union(box);
      paths.expandByPoint(point);
      this.corners.push(...cornersOf(box));
      this.bodyCorners.push(...cornersOf(box).map((corner) => corner.sub(point)));
    }
    // A foot that leaves the floor, or a frame that went wrong, moves it little.
    this.floorHeight = lows.sort((a, b) => a - b)[Math.floor(lows.length / 5)];
    const way = paths.getSize(new Vector3());
    this.travels = Math.hypot(way.x, way.z) > 2.5;
  }

  /** Where the people are at a frame: the mean of their roots, or where they were last. */
  point(frame) {
    const roots = this.people.filter((person) => person.has(frame)).map((person) => person.root(frame));
    if (roots.length) this.lastPoint = roots.reduce((sum, root) => sum.add(root), new Vector3()).divideScalar(roots.length);
    return (this.lastPoint ?? new Vector3()).clone();
  }

  /** Who is there at a frame. */
  present(frame) {
    return this.people.map((person) => Number(person.has(frame))).join("");
  }

  addLight() {
    this.sky = new HemisphereLight("#ffffff", "#888888", 1.9);
    this.sun = new DirectionalLight("#ffffff", 1.9);
    this.sun.castShadow = true;
    this.sun.shadow.mapSize.set(1024, 1024);
    this.sun.shadow.radius = 4;
    this.sun.shadow.blurSamples = 16;
    this.sun.shadow.bias = -0.001; // such maps hold the floor, too, which must not shade itself
    this.scene.add(this.sky, this.sun, this.sun.target);
  }

  addFloor() {
    this.floor = new Mesh(new CircleGeometry(1, 64).rotateX(-Math.PI / 2), new ShadowMaterial({ depthWrite: false }));
    this.floor.receiveShadow = true;
    this.floor.position.y = this.floorHeight;
    this.floor.renderOrder = -1;
    const uniforms = { middle: { value: new Vector3() }, colour: { value: new Color() }, reach: { value: 20 } };
    const grid = new ShaderMaterial({ ...GRID, uniforms, transparent: true, depthWrite: false });
    this.grid = new Mesh(new PlaneGeometry(200, 200).rotateX(-Math.PI / 2), grid);
    this.grid.position.y = this.floorHeight;
    this.grid.renderOrder = -2;
    this.scene.add(this.floor, this.grid);
  }

  /** The picture stands behind the people, where each of its pixels is on the ray that the camera saw it by. */
  addPhoto() {
    const camera = this.photoCamera;
    if (!camera?.photo) return;
    const [fx, fy, cx, cy] = camera.focal_and_centre, { width, height } = camera;
    const away = Math.max(1, -this.bounds.min.z) * 1.04 + 0.3;
    const map = new TextureLoader().load(camera.photo, () => { this.changed = true; });
    map.colorSpace = SRGBColorSpace;
    const plane = new PlaneGeometry((width / fx) * away, (height / fy) * away);
    this.photo = new Mesh(plane, new MeshBasicMaterial({ map, toneMapped: false, depthWrite: false }));
    this.photo.position.set(((width / 2 - cx) / fx) * away, (-(height / 2 - cy) / fy) * away, -away);
    this.photo.renderOrder = -3;
    this.photo.visible = false;
    this.scene.add(this.photo);
  }

  setTheme(dark) {
    const theme = THEMES[dark ? "dark" : "light"];
    this.scene.background = new Color(theme.background);
    this.sky.color.set(theme.sky);
    this.sky.groundColor.set(theme.ground);
    this.floor.material.opacity = theme.shadow;
    this.grid.material.uniforms.colour.value.set(theme.line);
    this.changed = true;
  }

  setFloor(on) {
    this.grid.visible = on;
    this.floor.visible = on;
    this.changed = true;
  }

  /** Sees the people from one of DIRECTIONS, or from where the camera was. */
  setView(name, frame, follow) {
    this.view = name;
    this.followed = this.point(frame);
    this.company = this.present(frame);
    if (name === "camera") this.seeAsCamera();
    else {
      const about = (corner) => corner.clone().add(this.followed);
      this.seeFrom(DIRECTIONS[name], follow ? this.bodyCorners.map(about) : this.corners);
    }
    this.changed = true;
  }

  /** Sees all points, with a little room around them. */
  seeFrom(direction, points) {
    const middle = new Box3().setFromPoints(points).getCenter(new Vector3());
    const towards = new Vector3(...direction).normalize();
    const side = new Vector3(0, 1, 0).cross(towards).normalize(), up = towards.clone().cross(side);
    const slope = 0.9 * Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
    const away = Math.max(...points.map((point) => {
      const from = point.clone().sub(middle);
      return Math.max(Math.abs(from.dot(up)), Math.abs(from.dot(side)) / this.eye.aspect) / slope + from.dot(towards);
    }));
    this.eye.fov = FIELD_OF_VIEW;
    this.controls.target.copy(middle);
    this.eye.position.copy(middle).addScaledVector(towards, Math.max(away, 0.6));
    this.eye.updateProjectionMatrix();
    this.controls.update();
  }

  seeAsCamera() {
    const camera = this.photoCamera;
    const [fx, fy, cx, cy] = camera.focal_and_centre, { width, height } = camera;
    const ray = (x, y) => new Vector3((x - cx) / fx, -(y - cy) / fy, -1);
    const depth = Math.max(0.5, -this.bounds.getCenter(new Vector3()).z);
    this.eye.position.set(0, 0, 0);
    this.controls.target.copy(ray(width / 2, height / 2).multiplyScalar(depth));
    this.controls.update();
    this.eye.updateMatrixWorld();
    let slope = 0;
    for (const corner of [ray(0, 0), ray(width, 0), ray(0, height), ray(width, height)]) {
      corner.applyMatrix4(this.eye.matrixWorldInverse);
      slope = Math.max(slope, Math.abs(corner.y / corner.z), Math.abs(corner.x / corner.z) / this.eye.aspect);
    }
    this.eye.fov = (Math.atan(1.02 * slope) * 360) / Math.PI;
    this.eye.updateProjectionMatrix();
  }

  /** Moves the viewer along with the people. */
  follow(frame) {
    const point = this.point(frame), moved = point.clone().sub(this.followed).setY(0);
    const company = this.present(frame), same = company === this.company;
    Object.assign(this, { followed: point, company });
    if (this.view === "camera" || !same) return; // the mean jumps where somebody comes or goes
    this.controls.target.add(moved);
    this.eye.position.add(moved);
    this.controls.update();
  }

  resize(width, height) {
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.eye.aspect = width / height;
    this.eye.updateProjectionMatrix();
    this.changed = true;
  }

  render() {
    const { target } = this.controls, away = this.eye.position.distanceTo(target);
    this.eye.near = Math.max(0.02, away / 200);
    this.eye.far = away + 300;
    this.eye.updateProjectionMatrix();
    const { middle, reach: shown } = this.grid.material.uniforms;
    middle.value.copy(target);
    shown.value = 6 + 2 * away;
    for (const plane of [this.floor, this.grid]) plane.position.set(target.x, this.floorHeight, target.z);
    const reach = Math.max(1.6, this.travels ? 2.5 : this.bounds.getSize(new Vector3()).length() * 0.6);
    this.floor.scale.setScalar(0.95 * reach); // no further than shadows are known
    this.sun.target.position.copy(target);
    this.sun.position.copy(target).add(new Vector3(0.45, 1, 0.55).multiplyScalar(2 * reach));
    const box = this.sun.shadow.camera;
    Object.assign(box, { left: -reach, right: reach, top: reach, bottom: -reach, near: 0.1, far: 6 * reach });
    box.updateProjectionMatrix();
    this.renderer.render(this.scene, this.eye);
    this.changed = false;
  }
}

function cornersOf({ min, max }) {
  return [min.x, max.x].flatMap((x) => [min.y, max.y].flatMap((y) => [min.z, max.z].map((z) => new Vector3(x, y, z))));
}
