// What the pages of scans and of pictures share: the panel of masks, side by side, keys and help.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`aria-*`, `class` and `data-*` as attributes), and what is in it. */
export function make(tag, properties = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|class$)/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...inside);
  return element;
}

export function section(title, ...inside) {
  const made = make("section", { "aria-label": title }, make("h2", {}, title), ...inside);
  $("panel").append(made);
  return made;
}

const bound = new Map();

/** Have a key do something; the help lists it in words, if there are any. */
export function onKey(keys, words, action) {
  for (const key of keys) bound.set(key, action);
  const shown = { " ": "space", ArrowLeft: "←", ArrowRight: "→" };
  if (words) {
    const caps = keys.flatMap((key) => [make("kbd", {}, shown[key] ?? key), " "]);
    $("keys").append(make("dt", {}, ...caps), make("dd", {}, words));
  }
}

/** A button that is pressed or not, and its key. */
export function toggle(name, key, title, pressed, action) {
  const button = make("button", { title: `${title} (${key})`, "aria-pressed": String(pressed) }, name);
  const flip = () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    action(now);
  };
  button.addEventListener("click", flip);
  onKey([key], title, flip);
  return button;
}

/** Buttons of which one is pressed, `[name, key, title, action]` each; returns what presses one without its action. */
export function choice(options, title) {
  const box = make("div", { class: "choices", role: "group", "aria-label": title });
  const press = (index) => [...box.children].forEach((each, at) => each.setAttribute("aria-pressed", String(at === index)));
  options.forEach(([name, key, words, action], index) => {
    const choose = () => {
      press(index);
      action();
    };
    const button = make("button", { title: `${words} (${key})`, "aria-pressed": "false" }, name);
    button.addEventListener("click", choose);
    box.append(button);
    onKey([key], words, choose);
  });
  return [box, press];
}

/** The panel of masks: each with a box, an opacity and its labels; `changed()` after every change. */
function layerPanel(scene, { changed, goTo, opacity }) {
  const rows = scene.layers.map((layer, number) => {
    const box = make("input", { type: "checkbox" });
    layer.see = (on) => {
      layer.shown = box.checked = on;
      changed();
    };
    layer.shown = box.checked = layer.kind === "mask" || !scene.layers.some(({ kind }) => kind === "mask"); // a map hides masks
    layer.opacity = opacity;
    box.addEventListener("change", () => layer.see(box.checked));
    if (number < 9) onKey([`Shift+${number + 1}`], `show or hide ${layer.name}`, () => layer.see(!layer.shown));
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: layer.opacity, "aria-label": `opacity of ${layer.name}` });
    layer.fade = (opacity) => {
      layer.opacity = Math.min(1, Math.max(0, opacity));
      slider.value = layer.opacity;
      changed();
    };
    slider.addEventListener("input", () => layer.fade(slider.valueAsNumber));
    const title = make("label", {}, box, make("span", { title: layer.name }, layer.name));
    const [first, ...more] = detail(layer, changed, goTo);
    return make("div", { class: "layer" }, make("div", { class: "entry" }, title, ...first), slider, ...more);
  });
  section("Masks", ...(rows.length ? rows : [make("p", { class: "note" }, "none given: medseg3d view SCAN MASK …")]));
  if (!rows.length) return;
  onKey([" "], "show or hide all masks", () => {
    const on = !scene.layers.some((layer) => layer.shown);
    scene.layers.forEach((layer) => layer.see(on));
  });
  onKey(["[", "]"], "masks fainter, stronger", (key) => scene.layers.forEach((layer) => layer.fade(layer.opacity + (key === "]" ? 0.1 : -0.1))));
}

/** What stands beside the name of a mask, in an array, and below its opacity. */
function detail(layer, changed, goTo) {
  const jump = (place, name) => {
    const button = make("button", { title: `Go to ${name}`, "aria-label": `go to ${name}`, disabled: !place }, "◎");
    button.addEventListener("click", () => goTo(place));
    return goTo ? [button] : [];
  };
  const colour = (label) => {
    const field = make("input", { type: "color", value: label.colour, "aria-label": `colour of ${label.name}` });
    field.addEventListener("input", () => { label.colour = field.value; changed(); });
    return field;
  };
  const size = (label) => make("span", { class: "size" }, label.size);
  if (layer.kind !== "mask") {
    return [jump(layer.centre, `the highest of ${layer.name}`), make("div", { class: "scale", style: `background:linear-gradient(90deg, ${layer.stops})` }), make("div", { class: "ends" }, ...["0", "probability", "1"].map((text) => make("span", {}, text)))];
  }
  for (const label of layer.labels) label.shown = true;
  const [only] = layer.labels;
  if (layer.labels.length === 1 && only.name === layer.name) return [[size(only), colour(only), ...jump(only.centre, only.name)]];
  const rows = layer.labels.map((label) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => { label.shown = box.checked; changed(); });
    const name = make("label", {}, box, make("span", { title: label.name }, label.name));
    return make("div", { class: "entry" }, name, size(label), colour(label), ...jump(label.centre, label.name));
  });
  return [[], make("div", { class: "entries" }, ...rows)];
}

/** Side by side: which mask is on the left and on the right; null for all on one. */
function comparePanel(scene, changed) {
  if (!scene.layers.length) return;
  const sides = (scene.layers.length > 1 ? [0, 1] : [-1, 0]).map((chosen, side) => {
    const names = [["-1", "no mask"], ...scene.layers.map((layer, index) => [String(index), layer.name])];
    const select = make("select", { "aria-label": side ? "on the right" : "on the left" }, ...names.map(([value, name]) => make("option", { value }, name)));
    select.value = String(chosen);
    select.addEventListener("change", () => changed(pair()));
    return select;
  });
  const pair = () => sides.map((select) => Number(select.value));
  const fields = make("div", { class: "fields", hidden: true }, "Left", sides[0], "Right", sides[1]);
  const button = toggle("Two masks side by side", "d", "two masks side by side", false, (on) => {
    fields.hidden = !on;
    changed(on ? pair() : null);
  });
  section("Compare", button, fields);
}

/** The line below the image: parts of text, or `[colour, text]`. */
export function say(...parts) {
  $("position").replaceChildren(...parts.map((part) => Array.isArray(part)
    ? make("span", {}, make("span", { class: "dot", style: `background:${part[0]}` }), part[1])
    : make("span", {}, part)));
}

/** The 256 colours of probabilities, RGBA: fainter where they are low. */
function probabilityColours(niivue) {
  const table = niivue.cmapper.colormap("inferno").slice();
  for (let level = 0; level < 256; level += 1) table[4 * level + 3] = 255 * Math.min(1, (level / 102) ** 2);
  return table;
}

/** Which masks a side shows: all that are on, or only its own of two. */
export const seen = (scene, side) => scene.layers.map((layer, index) => layer.shown && (!scene.pair || scene.pair[side] === index));

function keyPressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=number]")) return;
  if ($("help").open && !["h", "?"].includes(event.key)) return;
  const key = event.shiftKey && /^Digit[1-9]$/.test(event.code) ? `Shift+${event.code[5]}` : event.key;
  event.stopImmediatePropagation(); // NiiVue has keys of its own, which do other things
  const onWidget = event.target.closest("button, input");
  if (!bound.has(key) || (onWidget && (key === " " || key.startsWith("Arrow")))) return;
  event.preventDefault();
  bound.get(key)(key);
}

async function start() {
  const scene = await (await fetch("scene.json")).json();
  document.title = `${scene.title} – medseg3d view`;
  $("title").textContent = scene.title;
  $("made").textContent = scene.made;
  scene.pair = null;
  await new Promise((resolve, reject) => document.head.append(make("script", { src: "niivue.js", onload: resolve, onerror: reject })));
  const { prepare } = await import(scene.kind === "volume" ? "./volume.js" : "./picture.js");
  const table = probabilityColours(window.niivue);
  const stops = [0, 64, 128, 192, 255].map((at) => `rgb(${table.slice(4 * at, 4 * at + 3).join(" ")})`).join(", ");
  scene.layers.forEach((layer) => Object.assign(layer, { table, stops }));
  const page = prepare(scene, window.niivue);
  comparePanel(scene, async (pair) => {
    scene.pair = pair;
    pair?.forEach((index) => scene.layers[index]?.see(true));
    document.querySelectorAll("figure").forEach((figure, side) => {
      figure.hidden = side === 1 && !pair;
      figure.querySelector("figcaption").textContent = pair ? (scene.layers[pair[side]]?.name ?? "no mask") : "";
    });
    $("message").textContent = pair ? "Loading …" : "";
    await page.compared();
    $("message").textContent = "";
  });
  layerPanel(scene, page);
  $("mouse").append(...page.mouse.map((line) => make("li", {}, line)));
  const help = () => ($("help").open ? $("help").close() : $("help").showModal());
  onKey(["h", "?"], "this help", help);
  $("show-help").addEventListener("click", help);
  window.addEventListener("keydown", keyPressed, true);
  window.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);
  await page.draw();
  $("message").textContent = "";
  document.body.dataset.state = "drawn";
}

start().catch((error) => {
  $("message").textContent = `This page cannot be shown: ${error.message ?? "a file is missing"}`;
  document.body.dataset.state = "failed";
  throw error;
});
