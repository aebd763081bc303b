// A scan in three planes and in 3-D, by NiiVue.
import { $, choice, make, onKey, say, section, seen, toggle } from "./viewer.js";

const TRANSLUCENT_BELOW_MIN = 1; // NiiVue's COLORMAP_TYPE, which it does not export
const DIRECTIONS = [["R", "L"], ["A", "P"], ["S", "I"]];
const inWords = (mm) => [...mm].slice(0, 3).map((value, axis) => `${DIRECTIONS[axis][value < 0 ? 1 : 0]} ${Math.abs(value).toFixed(1)}`).join("  ");
const rounded = (value) => String(Number(value.toPrecision(5)));

export function prepare(scene, niivue) {
  const { Niivue, SLICE_TYPE, SHOW_RENDER, MULTIPLANAR_TYPE, DRAG_MODE } = niivue;
  const { windows, unit } = scene.image;
  const views = [];
  let window_ = { ...windows[0] };
  let sliceType = SLICE_TYPE.MULTIPLANAR;
  let measuring = false;
  let ruled = true;
  const options = {
    backColor: [0, 0, 0, 1], crosshairColor: [0.34, 0.71, 0.91, 0.7], crosshairWidthUnit: "mm",
    measureLineColor: [0.94, 0.89, 0.26, 1], measureTextColor: [0.94, 0.89, 0.26, 1], fontColor: [0.85, 0.87, 0.9, 1],
    isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarLayout: MULTIPLANAR_TYPE.GRID,
    multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarPadPixels: 4, dragAndDropEnabled: false, logLevel: "error",
    loadingText: "", clipPlaneHotKey: "", viewModeHotKey: "", cycleClipPlaneHotKey: "", trustCalMinMax: false,
  };

  const each = (action) => views.forEach(action);
  const tellWindow = (low, high) => {
    window_ = { low, high };
    $("width").value = rounded(high - low);
    $("level").value = rounded((high + low) / 2);
    document.body.dataset.window = `${low} ${high}`;
  };
  const setWindow = (low, high) => {
    tellWindow(low, high);
    each((view) => {
      Object.assign(view.volumes[0], { cal_min: low, cal_max: high });
      view.refreshLayers(view.volumes[0], 0); // the scan alone
      view.drawScene();
    });
  };
  const [windowBox, pressWindow] = choice(
    windows.map(({ name, low, high }, index) => [name, String(index + 1), `${name}: ${rounded(low)} to ${rounded(high)} ${unit}`, () => setWindow(low, high)]),
    "Window",
  );
  const number = (id) => make("input", { type: "number", id, "aria-label": `${id} of the window`, step: "any" });
  section("Window", windowBox, make("div", { class: "fields" }, "Width", number("width"), "Level", number("level")));
  for (const id of ["width", "level"]) {
    $(id).addEventListener("change", () => {
      const [width, level] = [Math.max($("width").valueAsNumber, 1e-6), $("level").valueAsNumber];
      if (!Number.isFinite(width + level)) return;
      pressWindow(-1);
      setWindow(level - width / 2, level + width / 2);
    });
  }

  const show = (type) => {
    sliceType = type;
    each((view) => view.setSliceType(type));
  };
  const [layout, pressLayout] = choice([
    ["3 planes + 3-D", "m", "three planes and 3-D", () => show(SLICE_TYPE.MULTIPLANAR)],
    ...["Axial", "Coronal", "Sagittal"].map((name) => [name, name[0].toLowerCase(), name.toLowerCase(), () => show(SLICE_TYPE[name.toUpperCase()])]),
    ["3-D", "v", "3-D", () => show(SLICE_TYPE.RENDER)],
  ], "View");
  pressLayout(0);
  section("View", layout);

  section("Tools", make("div", { class: "choices" },
    toggle("Ruler", "r", "a ruler in mm in each plane", true, (on) => { ruled = on; each(rule); }),
    toggle("Measure", "t", "measure by dragging, in mm", false, (on) => {
      measuring = on;
      each((view) => {
        view.opts.dragModePrimary = on ? DRAG_MODE.measurement : DRAG_MODE.crosshair;
        if (!on) view.clearMeasurements();
      });
    }),
    toggle("Crosshair", "x", "crosshair", true, (on) => each((view) => view.setCrosshairWidth(on ? 1 : 0))),
    toggle("Smooth", "i", "interpolate between voxels", true, (on) => each((view) => view.setInterpolation(!on))),
  ));

  /** A bar of a round length in each plane (NiiVue's own needs a display that is not radiological). */
  function rule(view) {
    const figure = view.canvas.parentElement;
    figure.querySelectorAll(".bar").forEach((bar) => bar.remove());
    const ratio = view.uiData.dpr || 1;
    for (const { axCorSag, fovMM, leftTopWidthHeight } of ruled ? view.screenSlices : []) {
      const [left, top, width, height] = leftTopWidthHeight.map((length) => length / ratio);
      if (axCorSag === SLICE_TYPE.RENDER) continue;
      const pixels = width / Math.abs(fovMM[0]); // of a mm
      const most = Math.min(90, width / 3) / pixels;
      const power = 10 ** Math.floor(Math.log10(most));
      const mm = [5, 2, 1].map((factor) => factor * power).find((length) => length <= most);
      const style = `left:${left + 10}px;top:${top + height - 16}px;width:${mm * pixels}px`;
      figure.append(make("div", { class: "bar", "data-mm": `${mm} mm`, style }));
    }
  }

  const goTo = (mm) => each((view) => {
    view.scene.crosshairPos = view.mm2frac(mm);
    view.createOnLocationChange();
    view.drawScene();
  });
  const steps = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  for (const [key, voxels] of Object.entries(steps)) { // the patient's right is on the left
    onKey([key], "", () => each((view) => view.moveCrosshairInVox(...voxels)));
  }
  $("keys").append(make("dt", {}, make("kbd", {}, "← → ↑ ↓"), " ", make("kbd", {}, "Page ↑ ↓")), make("dd", {}, "move the crosshair by a voxel"));

  const tellPosition = ({ mm, values }) => {
    const [grey, ...masks] = values.map((each) => each.value);
    const parts = scene.layers.flatMap((layer, index) => {
      if (layer.kind !== "mask") return [`${layer.name}: ${masks[index].toFixed(2)}`];
      const label = layer.labels.find((each) => each.value === Math.round(masks[index]));
      return label ? [[label.colour, label.name === layer.name ? label.name : `${layer.name}: ${label.name}`]] : [];
    });
    say(`${inWords(mm)} mm`, `${rounded(grey)} ${unit}`, ...parts);
  };

  const paint = (view, side) => {
    const shown = seen(scene, side);
    scene.layers.forEach((layer, index) => {
      const volume = view.volumes[index + 1];
      volume.opacity = shown[index] ? layer.opacity : 0;
      if (layer.kind !== "mask") return;
      const parts = layer.labels.map((label) => [1, 3, 5].map((at) => parseInt(label.colour.slice(at, at + 2), 16)));
      const channel = (at) => [0, 0, ...parts.map((part) => part[at])];
      volume.setColormapLabel({
        R: channel(0), G: channel(1), B: channel(2),
        A: [0, 0, ...layer.labels.map((label) => (label.shown ? 255 : 0))],
        // NiiVue 0.69 shows values in the lowest 1/128 of a table as the next: with 0 first, the background of 64 labels
        I: [-2, 0, ...layer.labels.map((label) => label.value)],
      });
    });
    view.updateGLVolume();
  };

  const open = async (side) => {
    const { crosshairWidth, isNearestInterpolation } = views[0]?.opts ?? {};
    const view = new Niivue({ ...options, sliceType, ...(views.length ? { crosshairWidth, isNearestInterpolation } : {}) });
    await view.attachToCanvas($(side ? "right" : "left"), true);
    await view.loadVolumes([
      { url: scene.image.file, name: scene.image.file, colormap: "gray" },
      ...scene.layers.map(({ file, kind }) => ({ url: file, name: file, ...(kind === "mask" ? {} : { colormap: "inferno" }) })),
    ]);
    const [grey, ...masks] = view.volumes; // windows are set now: as options those beyond the values are not kept
    Object.assign(grey, { cal_min: window_.low, cal_max: window_.high });
    masks.forEach((volume, index) => {
      if (scene.layers[index].kind === "mask") return;
      Object.assign(volume, { cal_min: 0.4, cal_max: 1, colormapType: TRANSLUCENT_BELOW_MIN });
    });
    const drawScene = view.drawScene.bind(view);
    view.drawScene = () => {
      drawScene();
      rule(view);
      const { cal_min: low, cal_max: high } = view.volumes[0];
      if (low === window_.low && high === window_.high) return;
      pressWindow(-1); // it was dragged
      setWindow(low, high);
    };
    view.opts.dragMode = DRAG_MODE.windowing;
    view.opts.dragModePrimary = measuring ? DRAG_MODE.measurement : DRAG_MODE.crosshair;
    view.onLocationChange = tellPosition;
    view.canvas.addEventListener("pointerenter", () => view.canvas.focus({ preventScroll: true })); // which syncs the other
    views[side] = view;
    paint(view, side);
  };

  return {
    goTo,
    opacity: 0.55,
    changed: () => each(paint),
    compared: async () => {
      if (scene.pair && views.length === 1) {
        await open(1);
        views[0].broadcastTo(views[1], { "2d": true, "3d": true });
        views[1].broadcastTo(views[0], { "2d": true, "3d": true });
        goTo(views[0].frac2mm(views[0].scene.crosshairPos));
      }
      each(paint);
    },
    draw: async () => {
      await open(0);
      pressWindow(0);
      tellWindow(window_.low, window_.high);
      const places = scene.layers.flatMap((layer) => layer.labels?.map((label) => label.centre) ?? [layer.centre]);
      goTo(places.find((place) => place) ?? views[0].frac2mm([0.5, 0.5, 0.5]));
      window.views = views; // for whoever opens the console
    },
    mouse: [
      "Click or drag: move the crosshair; in 3-D: turn. Wheel: through the slices; in 3-D: zoom.",
      "Drag with the right button: the window, up and down its level, left and right its width.",
      "Two fingers: zoom and move. ◎ goes to a label. Colours and opacity are in the panel.",
    ],
  };
}
