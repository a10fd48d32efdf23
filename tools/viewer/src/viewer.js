// The page: reads the scene, builds the controls and plays.
import { COLOURS, Person } from "./people.js";
import { readScene } from "./scene.js";
import style from "./viewer.css";
import markup from "./viewer.html";
import { World } from "./views.js";

const sheet = new CSSStyleSheet();
sheet.replaceSync(style);
document.adoptedStyleSheets = [sheet];
document.body.insertAdjacentHTML("afterbegin", markup);
const $ = (id) => document.getElementById(id);

class Viewer {
  constructor(scene) {
    this.scene = scene;
    const names = [...new Set(scene.people.map((person) => person.name))];
    this.colours = Object.fromEntries(names.map((name, i) => [name, COLOURS[i % COLOURS.length]]));
    this.people = scene.people.map((person) => {
      const colour = this.colours[person.name];
      return new Person({ ...person, colour }, scene.surfaces, colour);
    });
    this.first = Math.min(...this.people.map((person) => person.first));
    this.last = Math.max(...this.people.map((person) => person.first + person.frames - 1));
    this.count = Math.max(...this.people.map((person) => person.count));
    this.frame = this.first;
    this.hypothesis = "chosen";
    this.speed = 1;
    this.playing = false;
    this.elapsed = 0; // seconds into the frame that is shown
    this.world = new World($("canvas"), this.people, [this.first, this.last], scene.camera);
    this.buildControls(names);
    this.listen();
    const photo = Boolean(scene.camera?.photo);
    $("follow").checked = this.world.travels && names.length === 1 && !photo;
    this.resize();
    this.setView(photo ? "camera" : "corner");
    this.show();
    if (this.last > this.first && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
    requestAnimationFrame((now) => this.tick(now));
  }

  /** Seconds since frame 0. */
  get time() {
    return this.frame / this.scene.fps;
  }

  set time(seconds) {
    this.setFrame(Math.round(seconds * this.scene.fps));
  }

  setFrame(frame) {
    this.frame = Math.min(Math.max(frame, this.first), this.last);
    this.elapsed = 0;
    this.show();
  }

  play() {
    if (this.last === this.first) return;
    this.playing = true;
    this.showPlaying();
  }

  pause() {
    this.playing = false;
    this.showPlaying();
  }

  /** "chosen", "all" or a number from 0. */
  setHypothesis(which) {
    const number = typeof which === "number";
    if (!number && which !== "chosen" && which !== "all") throw new RangeError(`no hypothesis "${which}"`);
    this.hypothesis = number ? Math.min(Math.max(Math.round(which), 0), this.count - 1) : which;
    if (number) $("which").value = this.hypothesis;
    document.querySelector(`input[name="hypothesis"][value="${number ? "one" : which}"]`).checked = true;
    this.show();
  }

  /** "front", "side", "top", "camera" or, as the page opens, "corner". */
  setView(name) {
    this.world.setView(name, this.frame, $("follow").checked);
    if (this.world.photo) this.setPhoto(name === "camera");
    this.showView();
  }

  setPhoto(on) {
    $("photo").checked = on;
    this.world.photo.visible = on;
    $("floor").checked = !on;
    this.world.setFloor(!on);
  }

  setVisible(name, on) {
    this.people.filter((person) => person.name === name).forEach((person) => { person.visible = on; });
    this.show();
  }

  show() {
    this.people.forEach((person) => person.show(this.frame, this.hypothesis));
    if ($("follow").checked) this.world.follow(this.frame);
    const clock = `frame ${this.frame} · ${this.time.toFixed(2)} s`;
    $("clock").value = clock;
    $("time").value = this.frame;
    $("time").setAttribute("aria-valuetext", clock);
    const chosen = [...new Set(this.people.filter((p) => p.has(this.frame)).map((p) => p.chosen(this.frame)))];
    $("chosen").textContent = chosen.length === 1 && this.count > 1 ? `The chosen one, number ${chosen[0]}` : "The chosen one";
    $("number").value = `${$("which").value}, of 0 to ${this.count - 1}`;
    this.world.changed = true;
  }

  showPlaying() {
    $("play").classList.toggle("playing", this.playing);
    $("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
  }

  showView() {
    document.querySelectorAll("[data-view]").forEach((button) => {
      button.setAttribute("aria-pressed", button.dataset.view === this.world.view);
    });
  }

  buildControls(names) {
    const { scene } = this, moving = this.last > this.first;
    $("title").textContent = scene.title;
    $("method").textContent = [scene.method, ...(moving ? [`${scene.fps} frames per second`] : [])].join(" · ");
    $("canvas").setAttribute("aria-label", `${names.join(", ")}: ${scene.title}`);
    $("transport").hidden = !moving;
    Object.assign($("time"), { min: this.first, max: this.last });
    $("hypotheses").hidden = this.count === 1;
    $("which").max = this.count - 1;
    $("all").textContent = `All ${this.count}, faint over one another`;
    document.querySelector('[data-view="camera"]').hidden = !scene.camera;
    $("photo").parentElement.hidden = !scene.camera?.photo;
    $("follow").parentElement.hidden = !moving;
    $("sides").hidden = !scene.people.some((person) => person.sides?.some(Boolean));
    const facts = {
      [`Camera, ${scene.camera_assumed ? "assumed" : "given"}`]: scene.camera_statement, Unit: scene.unit,
      "Chosen by": scene.pick,
    };
    for (const [name, value] of Object.entries(facts)) {
      if (!value) continue;
      $("facts").append(element("dt", name), element("dd", value));
    }
    for (const name of names) {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      box.addEventListener("change", () => this.setVisible(name, box.checked));
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.background = this.colours[name];
      swatch.hidden = !$("sides").hidden;
      const label = document.createElement("label");
      label.append(box, swatch, element("span", name));
      $("people").append(label);
    }
  }

  listen() {
    const on = (id, event, action) => $(id).addEventListener(event, action);
    on("play", "click", () => (this.playing ? this.pause() : this.play()));
    on("time", "input", () => this.setFrame($("time").valueAsNumber));
    on("speed", "change", () => { this.speed = Number($("speed").value); });
    on("which", "input", () => this.setHypothesis($("which").valueAsNumber));
    on("photo", "change", () => this.setPhoto($("photo").checked));
    on("floor", "change", () => this.world.setFloor($("floor").checked));
    on("glass", "change", () => {
      this.people.forEach((person) => person.setGlass($("glass").checked));
      this.world.changed = true;
    });
    on("follow", "change", () => { this.world.company = null; });
    document.querySelectorAll("[data-view]").forEach((button) => {
      button.addEventListener("click", () => this.setView(button.dataset.view));
    });
    document.querySelectorAll('input[name="hypothesis"]').forEach((input) => {
      input.addEventListener("change", () => {
        this.setHypothesis(input.value === "one" ? $("which").valueAsNumber : input.value);
      });
    });
    this.world.controls.addEventListener("change", () => { this.world.changed = true; });
    this.world.controls.addEventListener("start", () => {
      this.world.view = null;
      this.showView();
    });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    this.world.setTheme(dark.matches);
    dark.addEventListener("change", () => this.world.setTheme(dark.matches));
    new ResizeObserver(() => this.resize()).observe($("stage"));
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    // Controls keep their own keys.
    const own = event.key === " " ? "input, select, button" : "input[type=range], input[type=radio], select";
    if (event.target.closest(own) || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (by) => {
      this.pause();
      this.setFrame(this.frame + by);
    };
    const other = (by) => this.setHypothesis(($("which").valueAsNumber + by + this.count) % this.count);
    const actions = {
      " ": () => (this.playing ? this.pause() : this.play()),
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => other(1), ArrowDown: () => other(-1),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  resize() {
    const { clientWidth, clientHeight } = $("stage");
    if (!clientWidth || !clientHeight) return;
    this.world.resize(clientWidth, clientHeight);
    if (this.world.view) this.world.setView(this.world.view, this.frame, $("follow").checked);
  }

  tick(now) {
    const passed = Math.min((now - (this.now ?? now)) / 1000, 0.25); // a page in the background does not run on
    this.now = now;
    if (this.playing) {
      this.elapsed += passed * this.speed;
      const steps = Math.floor(this.elapsed * this.scene.fps);
      if (steps > 0) {
        const left = this.elapsed - steps / this.scene.fps, count = this.last - this.first + 1;
        this.setFrame(this.first + ((this.frame - this.first + steps) % count));
        this.elapsed = left;
      }
    }
    if (this.world.changed) this.world.render();
    requestAnimationFrame((next) => this.tick(next));
  }
}

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

try {
  window.viewer = new Viewer(readScene($("scene").textContent));
} catch (error) {
  $("failure").hidden = false;
  const advice = error.message.includes("WebGL") ? " This page needs WebGL, which the browser has switched off." : "";
  $("failure").textContent = `The scene cannot be shown: ${error.message}${advice}`;
  throw error;
}
