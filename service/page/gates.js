// How far a picture opens the gates of each layer. Not for the webcam: the service computes this slowly.

import { trace } from "./service.js";
import { bar, byId, pause, show } from "./view.js";

const MOST_FAILURES = 5;
const TRACED_SIZE = 32;

let tracing = null;

// Shows the gates of `picture` (null for none) in a model that reads pictures of `size`.
export async function showGates(picture, model, size) {
  const asked = byId("hood").open && picture !== null && size === TRACED_SIZE;
  show("gates", asked);
  if (asked && tracing?.blob === picture.blob && tracing.model === model) return;
  tracing?.abort.abort();
  tracing = null;
  if (!asked) return;
  const mine = { blob: picture.blob, model, abort: new AbortController() };
  tracing = mine;
  byId("gates-bars").replaceChildren(); // never another picture's
  byId("gates-note").textContent = "Computing …";
  try {
    const layers = await traceWhenFree(mine);
    if (tracing !== mine) return;
    const bars = layers.map((layer) => bar({ label: layer.name, probability: layer.gate_fraction }));
    byId("gates-bars").replaceChildren(...bars);
    byId("gates-note").textContent = "";
  } catch (error) {
    if (tracing !== mine) return;
    tracing = null;
    byId("gates-note").textContent = error.message;
  }
}

// The service traces one picture at a time and finishes even one that is no longer wanted.
async function traceWhenFree({ blob, model, abort }) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await trace(blob, model, abort.signal);
    } catch (error) {
      if (error.status !== 503 || failures >= MOST_FAILURES || abort.signal.aborted) throw error;
      await pause(1000 * error.after);
    }
  }
}
