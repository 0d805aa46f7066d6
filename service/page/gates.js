// How far a picture opens the gates of each layer, and a layer drawn. Not for the webcam: the service computes this slowly.

import { trace, traceLayer } from "./service.js";
import { bar, byId, pause, show } from "./view.js";

const MOST_FAILURES = 5;

let tracing = null;

// Shows the gates of `picture` (null for none).
export async function showGates(picture, model) {
  const asked = byId("hood").open && picture !== null;
  show("gates", asked);
  if (asked && tracing?.blob === picture.blob && tracing.model === model) return;
  tracing?.abort.abort();
  tracing = null;
  if (!asked) return;
  const mine = { blob: picture.blob, model, abort: new AbortController() };
  tracing = mine;
  byId("gates-bars").replaceChildren(); // never another picture's
  showLayers([]);
  byId("gates-note").textContent = "Computing …";
  try {
    const layers = await whenFree(mine, () => trace(mine.blob, mine.model, mine.abort.signal));
    if (tracing !== mine) return;
    const bars = layers.map((layer) => bar({ label: layer.name, probability: layer.gate_fraction }));
    byId("gates-bars").replaceChildren(...bars);
    byId("gates-note").textContent = "";
    showLayers(layers.map((layer) => layer.name));
  } catch (error) {
    if (tracing !== mine) return;
    tracing = null;
    byId("gates-note").textContent = error.message;
  }
}

// Offers `names` to be drawn; the one that was chosen before stays so.
function showLayers(names) {
  const choice = byId("layer");
  const before = choice.value;
  choice.replaceChildren(new Option("none", ""), ...names.map((name) => new Option(name, name)));
  choice.value = names.includes(before) ? before : "";
  show("layer-row", names.length > 0);
  drawLayer();
}

// Draws the layer that is chosen, of the picture whose gates are shown.
export async function drawLayer() {
  const mine = tracing;
  const layer = byId("layer").value;
  show("layer-figure", false);
  if (mine === null || layer === "") return;
  byId("gates-note").textContent = "Drawing …";
  const wanted = () => tracing === mine && byId("layer").value === layer;
  try {
    const drawn = await whenFree(mine, () => traceLayer(mine.blob, mine.model, layer, mine.abort.signal));
    if (!wanted()) return;
    const image = byId("layer-picture");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(drawn);
    image.alt = `Channels of ${layer}: maps left, gates right`;
    byId("gates-note").textContent = "";
    show("layer-figure", true);
  } catch (error) {
    if (wanted()) byId("gates-note").textContent = error.message;
  }
}

// The service traces one picture at a time and finishes even one that is no longer wanted.
async function whenFree({ abort }, ask) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 503 || failures >= MOST_FAILURES || abort.signal.aborted) throw error;
      await pause(1000 * error.after);
    }
  }
}
