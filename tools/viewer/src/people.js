// A person's hypotheses as objects of three.js. Each kind has the same face: setFrame(frame), root(frame), lowest and
// extent through addTo(box), and a material to look solid or faint.
import {
  Bone, BufferAttribute, BufferGeometry, Color, CylinderGeometry, DynamicDrawUsage, Group, InstancedMesh, Matrix4, Mesh,
  MeshStandardMaterial, NotEqualStencilFunc, Quaternion, ReplaceStencilOp, Skeleton, SkinnedMesh, SphereGeometry, Vector3,
} from "three";

// Okabe and Ito's colours, which people with any colour vision can tell apart, slightly muted.
export const COLOURS = ["#7a9fc9", "#d99a5b", "#63ad8f", "#c488ab", "#c9b95a", "#8fb8c9", "#b9785a"];
const SIDES = { left: "#d9772b", right: "#3b7dd8" };

const JOINT_RADIUS = 0.03, BONE_RADIUS = 0.017, FAINT_THINNER = 0.55;
const UP = new Vector3(0, 1, 0), ONE = new Vector3(1, 1, 1), STILL = new Quaternion();

/** One person (one stretch of frames): group, and which of the hypotheses are seen. */
export class Person {
  constructor(description, surfaces, colour) {
    this.name = description.name;
    this.first = description.first_frame;
    this.frames = description.num_frames;
    this.count = description.num_hypotheses;
    this.best = description.chosen.data;
    this.roots = description.roots; // hypotheses x frames x 3
    this.group = new Group();
    this.visible = true;
    const surface = surfaces[description.surface];
    const Kind = { skin: Skin, vertices: Vertices, joints: Joints }[description.kind];
    const shared = Kind.share(description, surface);
    const tint = description.kind === "joints" ? "#ffffff" : colour; // joints have their own
    this.solid = new MeshStandardMaterial({ color: tint, roughness: 0.72 });
    this.bodies = Array.from({ length: this.count }, (_, k) => {
      return new Kind(description, shared, k, this.solid, faint(tint, this.count, Kind.weight));
    });
    this.bodies.forEach((body) => this.group.add(body.object));
  }

  has(frame) {
    return frame >= this.first && frame < this.first + this.frames;
  }

  /** The number of the chosen hypothesis at a frame of the scene. */
  chosen(frame) {
    return this.best[Math.min(Math.max(frame - this.first, 0), this.frames - 1)];
  }

  root(frame, target = new Vector3()) {
    return target.fromArray(this.roots.data, 3 * (this.chosen(frame) * this.frames + frame - this.first));
  }

  /** Shows a frame of the scene: mode is "chosen", "all" or a number. */
  show(frame, mode) {
    this.group.visible = this.visible && this.has(frame);
    if (!this.group.visible) return;
    const chosen = this.chosen(frame);
    const solid = typeof mode === "number" ? Math.min(mode, this.count - 1) : chosen;
    this.bodies.forEach((body, k) => {
      body.object.visible = k === solid || mode === "all";
      if (!body.object.visible) return;
      body.look(k === solid);
      body.setFrame(frame - this.first);
    });
  }

  /** Widens a box by what is shown at a frame. */
  addTo(box, frame, mode) {
    this.show(frame, mode);
    this.group.updateMatrixWorld(true);
    this.bodies.filter((body) => body.object.visible).forEach((body) => body.addTo(box));
  }

  setGlass(on) {
    Object.assign(this.solid, { transparent: on, opacity: on ? 0.55 : 1, needsUpdate: true });
  }
}

let faintOnes = 0;

/** A material that tints each pixel once, however many layers a body has there: the stencil remembers which did. */
function faint(color, count, weight) {
  faintOnes += 1;
  return new MeshStandardMaterial({
    color, roughness: 0.72, transparent: true, depthWrite: false,
    opacity: weight * Math.min(0.4, Math.max(0.07, 2.5 / count)),
    stencilWrite: true, stencilFunc: NotEqualStencilFunc, stencilRef: 1 + (faintOnes % 255), stencilZPass: ReplaceStencilOp,
  });
}

/** A hypothesis: its meshes, which are solid or faint. */
class Body {
  static weight = 1;

  look(solid) {
    for (const mesh of this.meshes) {
      mesh.material = solid ? this.solid : this.faint;
      mesh.castShadow = solid;
      mesh.renderOrder = solid ? 0 : 1;
    }
  }

  addTo(box) {
    for (const mesh of this.meshes) {
      mesh.computeBoundingBox?.(); // skinned
      box.expandByObject(mesh, true);
    }
  }
}

function meshOf(Kind, geometry, material) {
  const mesh = new Kind(geometry, material);
  mesh.frustumCulled = false; // its bounds are those of another pose
  return mesh;
}

/** A rest body that bones move: SMPL. */
class Skin extends Body {
  static share(description, surface) {
    return description.shapes.map(({ vertices, joints }) => {
      const geometry = new BufferGeometry();
      geometry.setIndex(new BufferAttribute(surface.faces.data, 1));
      geometry.setAttribute("position", new BufferAttribute(vertices.data, 3));
      geometry.setAttribute("skinIndex", new BufferAttribute(surface.skin_joints.data, 4));
      geometry.setAttribute("skinWeight", new BufferAttribute(surface.skin_weights.data, 4));
      if (description.targets) {
        const { data, shape } = description.targets, size = 3 * shape[1];
        geometry.morphTargetsRelative = true;
        geometry.morphAttributes.position = Array.from(
          { length: shape[0] }, (_, t) => new BufferAttribute(data.subarray(t * size, (t + 1) * size), 3));
      }
      geometry.computeVertexNormals();
      return { geometry, joints: joints.data, parents: surface.parents };
    });
  }

  constructor(description, shared, k, solid, faint) {
    super();
    const { geometry, joints, parents } = shared[description.shape_of[k]];
    Object.assign(this, { description, k, solid, faint });
    this.bones = parents.map(() => new Bone());
    const inverses = parents.map((parent, j) => {
      const rest = new Vector3().fromArray(joints, 3 * j);
      if (parent >= 0) {
        this.bones[j].position.copy(rest).sub(new Vector3().fromArray(joints, 3 * parent));
        this.bones[parent].add(this.bones[j]);
      }
      return new Matrix4().makeTranslation(rest.negate());
    });
    const mesh = meshOf(SkinnedMesh, geometry, solid);
    mesh.bind(new Skeleton(this.bones, inverses), new Matrix4());
    this.object = new Group().add(this.bones[0], mesh);
    this.meshes = [mesh];
  }

  setFrame(frame) {
    const { rotations, roots, weights } = this.description;
    const row = this.k * rotations.shape[1] + frame, joints = this.bones.length;
    this.bones[0].position.fromArray(roots.data, 3 * row);
    this.bones.forEach((bone, j) => bone.quaternion.fromArray(rotations.data, 4 * (row * joints + j)).normalize());
    if (weights) {
      const targets = weights.shape[2];
      this.meshes[0].morphTargetInfluences.forEach((_, t, all) => { all[t] = weights.data[row * targets + t]; });
    }
  }

  /** Positions of the posed vertices, flat; for tests. */
  positions() {
    const [mesh] = this.meshes, at = new Vector3(), out = [];
    this.object.updateMatrixWorld(true);
    for (let v = 0; v < mesh.geometry.attributes.position.count; v++) out.push(...mesh.getVertexPosition(v, at).toArray());
    return out;
  }
}

/** Vertices of their own in every frame. */
class Vertices extends Body {
  static share(_, surface) {
    return new BufferAttribute(surface.faces.data, 1);
  }

  constructor(description, faces, k, solid, faint) {
    super();
    Object.assign(this, { description, k, solid, faint });
    const geometry = new BufferGeometry().setIndex(faces);
    const size = description.vertices.shape[2];
    geometry.setAttribute("position", new BufferAttribute(new Float32Array(3 * size), 3).setUsage(DynamicDrawUsage));
    this.object = meshOf(Mesh, geometry, solid);
    this.meshes = [this.object];
  }

  setFrame(frame) {
    if (frame === this.frame) return;
    this.frame = frame;
    const { vertices, roots } = this.description, { geometry } = this.object;
    const row = this.k * vertices.shape[1] + frame, { position } = geometry.attributes, size = position.array.length;
    position.array.set(vertices.data.subarray(row * size, (row + 1) * size));
    position.needsUpdate = true;
    geometry.computeVertexNormals();
    this.object.position.fromArray(roots.data, 3 * row);
  }

  positions() {
    const { x, y, z } = this.object.position, shift = [x, y, z];
    return Array.from(this.object.geometry.attributes.position.array, (value, i) => value + shift[i % 3]);
  }
}

/** Joints and the bones between them. */
class Joints extends Body {
  static weight = 2; // thin bones cover little

  static share() {
    return { sphere: new SphereGeometry(1, 20, 14), cylinder: new CylinderGeometry(1, 1, 1, 14, 1) };
  }

  constructor(description, { sphere, cylinder }, k, solid, faint) {
    super();
    Object.assign(this, { description, k, solid, faint, thickness: 1 });
    this.bones = description.parents.map((parent, child) => [parent, child]).filter(([parent]) => parent >= 0);
    const instanced = (geometry, joints) => {
      const mesh = new InstancedMesh(geometry, solid, joints.length);
      joints.forEach((j, i) => mesh.setColorAt(i, new Color(SIDES[description.sides[j]] ?? description.colour)));
      mesh.frustumCulled = false;
      return mesh;
    };
    this.balls = instanced(sphere, description.parents.map((_, j) => j));
    this.sticks = instanced(cylinder, this.bones.map(([, child]) => child));
    this.meshes = [this.balls, this.sticks];
    this.object = new Group().add(...this.meshes);
  }

  look(solid) {
    super.look(solid);
    this.thickness = solid ? 1 : FAINT_THINNER;
  }

  points(frame) {
    const { joints, roots } = this.description, count = joints.shape[2], row = this.k * joints.shape[1] + frame;
    const root = new Vector3().fromArray(roots.data, 3 * row);
    return Array.from({ length: count }, (_, j) => new Vector3().fromArray(joints.data, 3 * (row * count + j)).add(root));
  }

  setFrame(frame) {
    const points = this.points(frame), place = new Matrix4(), along = new Vector3();
    this.frame = frame;
    const ball = ONE.clone().multiplyScalar(JOINT_RADIUS * this.thickness);
    points.forEach((point, j) => this.balls.setMatrixAt(j, place.compose(point, STILL, ball)));
    this.bones.forEach(([parent, child], i) => {
      const length = along.subVectors(points[child], points[parent]).length();
      const turn = new Quaternion().setFromUnitVectors(UP, along.normalize());
      const middle = points[child].clone().add(points[parent]).multiplyScalar(0.5);
      const thick = BONE_RADIUS * this.thickness;
      this.sticks.setMatrixAt(i, place.compose(middle, turn, new Vector3(thick, length, thick)));
    });
    this.meshes.forEach((mesh) => { mesh.instanceMatrix.needsUpdate = true; });
  }

  addTo(box) {
    this.points(this.frame).forEach((point) => box.expandByPoint(point));
  }

  positions() {
    return this.points(this.frame).flatMap((point) => point.toArray());
  }
}
