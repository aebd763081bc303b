// A picture with its masks, uncovered by a slider.
import { $, make, onKey, say, section, seen } from "./viewer.js";

const loaded = (file) => new Promise((resolve, reject) => {
  const image = make("img", { src: file });
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error(`${file} cannot be read`));
});

export function prepare(scene) {
  const { width, height } = scene.image;
  const sides = [$("left"), $("right")];
  let picture;
  const surface = () => Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });

  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "image | overlay", id: "slider" });
  section("Image | overlay", make("div", { class: "layer" }, slider), make("p", { class: "note" }, "Or drag the line in the picture."));
  const slide = (percent) => {
    slider.value = percent;
    paint();
  };
  slider.addEventListener("input", paint);
  onKey(["ArrowLeft", "ArrowRight"], "move the line", (key) => slide(slider.valueAsNumber + (key === "ArrowRight" ? 2 : -2)));
  onKey(["1", "2", "3"], "image alone, half and half, overlay alone", (key) => slide({ 1: 100, 2: 50, 3: 0 }[key]));

  /** A mask in its colours: what is opaque in the file is coloured, or its level looked up. */
  function coloured(layer) {
    const context = surface();
    context.drawImage(layer.image, 0, 0);
    if (layer.kind === "mask") {
      context.globalCompositeOperation = "source-in";
      context.fillStyle = layer.labels[0].colour;
      context.fillRect(0, 0, width, height);
      return context.canvas;
    }
    const pixels = context.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const level = pixels.data[at];
      pixels.data.set(layer.table.subarray(4 * level, 4 * level + 4), at);
    }
    context.putImageData(pixels, 0, 0);
    return context.canvas;
  }

  /** Place of the picture on its canvas: scale, left and top, in pixels of the canvas. */
  function place(canvas) {
    const scale = Math.min(canvas.width / width, canvas.height / height);
    return { scale, left: (canvas.width - scale * width) / 2, top: (canvas.height - scale * height) / 2 };
  }

  function paint() {
    sides.forEach((canvas, side) => {
      if (!picture || canvas.closest("figure").hidden) return;
      const ratio = window.devicePixelRatio || 1;
      Object.assign(canvas, { width: canvas.clientWidth * ratio, height: canvas.clientHeight * ratio });
      const context = canvas.getContext("2d");
      const { scale, left, top } = place(canvas);
      context.imageSmoothingEnabled = scale < 3;
      context.drawImage(picture, left, top, scale * width, scale * height);
      const line = left + (scale * width * slider.valueAsNumber) / 100;
      context.save();
      context.beginPath();
      context.rect(line, 0, canvas.width, canvas.height);
      context.clip();
      const shown = seen(scene, side);
      scene.layers.forEach((layer, index) => {
        if (!shown[index] || layer.labels?.[0].shown === false) return;
        context.globalAlpha = layer.opacity;
        context.drawImage(coloured(layer), left, top, scale * width, scale * height);
      });
      context.restore();
      if (!scene.layers.length || slider.valueAsNumber % 100 === 0) return;
      context.fillStyle = "#fff";
      context.fillRect(line - ratio, top, 2 * ratio, scale * height);
      context.beginPath();
      context.arc(line, top + (scale * height) / 2, 9 * ratio, 0, 7);
      context.fill();
    });
  }

  function pointed(event, canvas) {
    const { scale, left, top } = place(canvas);
    const ratio = canvas.width / canvas.clientWidth;
    const x = Math.floor((event.offsetX * ratio - left) / scale);
    const y = Math.floor((event.offsetY * ratio - top) / scale);
    if (event.buttons) slide(Math.min(100, Math.max(0, (100 * (event.offsetX * ratio - left)) / (scale * width))));
    if (x < 0 || y < 0 || x >= width || y >= height) return say("");
    const parts = scene.layers.flatMap((layer) => {
      const [level, , , opaque] = layer.levels.getImageData(x, y, 1, 1).data;
      if (layer.kind !== "mask") return [`${layer.name}: ${(level / 255).toFixed(2)}`];
      return opaque ? [[layer.labels[0].colour, layer.name]] : [];
    });
    say(`column ${x}, row ${y}`, ...parts);
  }

  for (const canvas of sides) {
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointed(event, canvas); });
    canvas.addEventListener("pointermove", (event) => pointed(event, canvas));
  }
  new ResizeObserver(paint).observe($("stage"));
  return {
    opacity: 0.9,
    changed: paint,
    compared: paint,
    draw: async () => {
      for (const layer of scene.layers) {
        layer.image = await loaded(layer.file);
        layer.levels = surface();
        layer.levels.drawImage(layer.image, 0, 0);
      }
      picture = await loaded(scene.image.file); // from now on it is painted
      paint();
      say("");
    },
    mouse: ["Drag over the picture: the line between image and overlay.", "Point at a pixel: its place and what the masks say of it."],
  };
}
