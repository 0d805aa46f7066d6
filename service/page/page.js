// The page at /: a picture or the browser's webcam, labels beside it.

import { drawLayer, showGates } from "./gates.js";
import { forget, remember, save } from "./history.js";
import { filter, showKnowledge } from "./knows.js";
import { drawThermometer } from "./planes.js";
import { Refusal, classify, loadCamera, loadModels } from "./service.js";
import { shrink } from "./shrink.js";
import { copy, showSnippets } from "./snippets.js";
import {
  byId, clearError, complain, fill, heedToken, milliseconds, percent, presentLabels, show, stage,
} from "./view.js";
import * as webcam from "./webcam.js";

let models = new Map();
let maxPixels = Infinity;
let picture = null;
let drawn = null;
let pending = null;
let run = 0; // counts what a person asked for, so that the rest of what was asked before is left

async function ensureModels() {
  if (models.size > 0) return;
  const [known, camera] = await Promise.all([loadModels(), loadCamera()]);
  ({ models, maxPixels } = known);
  byId("model").replaceChildren(...[...models.keys()].map((name) => new Option(name, name)));
  show("model-choice", models.size > 1);
  show("camera-link", camera.configured);
  showModel();
}

function showModel() {
  const model = models.get(byId("model").value);
  if (model !== undefined) showKnowledge(model);
  show("knows", model !== undefined);
}

function present(answer) {
  const times = answer.timings_ms;
  presentLabels(answer);
  fill("timings", [
    ["Decoding", milliseconds(times.read)], ["Queue", milliseconds(times.queue)],
    ["Network", milliseconds(times.infer)], ["Whole service", milliseconds(times.total)],
    ["Round trip", milliseconds(answer.roundTrip)],
  ]);
  fill("about", ["model", "backend", "board", "arithmetic", "engine"]
    .filter((name) => answer[name])
    .map((name) => [name[0].toUpperCase() + name.slice(1), answer[name]]));
}

// --- one picture ------------------------------------------------------------------------------------------------

async function take(blob, name) {
  webcam.stop();
  pending?.abort();
  pending = null;
  clearError();
  picture = { blob, name };
  drawn = null;
  byId("nothing").textContent = "Working …";
  byId("result").classList.add("waiting");
  const shown = await display(blob, name);
  if (picture === null || picture.blob !== blob) return;
  drawn = shown;
  drawPlanes();
  await classifyPicture();
}

async function display(blob, name) {
  const image = byId("picture");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  byId("caption").textContent = name;
  stage("picture");
  try {
    await image.decode();
  } catch {
    stage("hint");
    byId("caption").textContent = `${name}: this browser cannot show it`;
    return null;
  }
  return image;
}

async function classifyPicture() {
  if (picture === null) return;
  pending?.abort();
  const mine = new AbortController();
  pending = mine;
  try {
    await ensureModels();
    const { name } = picture;
    const { blob, note } = drawn === null ? { blob: picture.blob, note: "" } : await shrink(picture.blob, drawn, maxPixels);
    if (pending !== mine) return;
    byId("caption").textContent = note ? `${name}: ${note}` : byId("caption").textContent;
    picture.sent = blob;
    const [model, top] = [byId("model").value, Number(byId("top").value)];
    const answer = await classify(blob, model, mine.signal, top);
    if (pending !== mine) return;
    clearError();
    present(answer);
    remember(name, model, answer, drawn);
    showSnippets(name, model, top);
    show("snippets", true);
    byId("status").textContent = `${answer.label}, ${percent(answer.score)}`;
    drawPlanes();
    traceGates();
  } catch (error) {
    if (error.name === "AbortError" || pending !== mine) return;
    clearResult("No result.");
    showGates(null);
    if (error.status !== 401) remember(picture.name, byId("model").value, { error: error.message }, drawn);
    complain(error, classifyPicture);
  }
}

function clearResult(text) {
  show("result", false);
  show("snippets", false);
  show("nothing", true);
  byId("nothing").textContent = text;
  byId("status").textContent = "";
}

async function takeAll(files) {
  run += 1;
  const mine = run;
  for (const file of files) {
    if (mine !== run) return;
    await take(file, file.name || "Pasted picture");
  }
}

async function takeSample() {
  run += 1;
  try {
    const answer = await fetch("page/cat.jpg");
    if (!answer.ok) throw new Refusal(answer.status);
    await take(await answer.blob(), "Chelsea the cat, photographed by Stéfan van der Walt (CC0)");
  } catch (error) {
    complain(error instanceof Refusal ? error : new Refusal(0), takeSample);
  }
}

// --- the webcam, and what lies under the hood -------------------------------------------------------------------

function startWebcam() {
  return webcam.start({
    prepare: ensureModels,
    begun() {
      run += 1;
      pending?.abort();
      pending = null;
      picture = null;
      traceGates();
      show("snippets", false);
    },
    ended() {
      drawn = null;
      drawPlanes();
      clearResult("Nothing yet.");
    },
    answered(answer, frame) {
      drawn = frame;
      present(answer);
      drawPlanes();
    },
  });
}

function drawPlanes() {
  const size = models.get(byId("model").value)?.image_size;
  const known = drawn !== null && size !== undefined;
  show("planes", known);
  show("planes-note", !known);
  if (known && byId("hood").open) drawThermometer(drawn, size);
}

function traceGates() {
  const model = byId("model").value;
  const traced = picture?.sent === undefined ? null : { blob: picture.sent };
  return showGates(traced, model);
}

// --- events -----------------------------------------------------------------------------------------------------

function leaveTargets() {
  byId("stage").classList.remove("over");
}

byId("file").addEventListener("change", (event) => {
  takeAll([...event.target.files]);
  event.target.value = "";
});
byId("sample").addEventListener("click", takeSample);
byId("webcam").addEventListener("click", () => (webcam.isOn() ? webcam.stop() : startWebcam()));
byId("model").addEventListener("change", () => {
  showModel();
  classifyPicture();
});
byId("top").addEventListener("change", classifyPicture);
byId("layer").addEventListener("change", drawLayer);
byId("find").addEventListener("input", filter);
byId("csv").addEventListener("click", () => save("csv"));
byId("json").addEventListener("click", () => save("json"));
byId("forget").addEventListener("click", forget);
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
byId("hood").addEventListener("toggle", () => {
  drawPlanes();
  traceGates();
});
document.addEventListener("paste", (event) => takeAll([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) leaveTargets();
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  leaveTargets();
  if (event.dataTransfer.files.length > 0) takeAll([...event.dataTransfer.files]);
  else complain(new Error("What was dropped is not a file. Save the picture first, then drop the file."));
});

async function start() {
  try {
    await ensureModels();
  } catch (error) {
    complain(error, start);
  }
}

heedToken(start);
start();
