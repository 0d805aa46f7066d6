// The page at /: a picture or the browser's webcam, labels beside it.

import { showGates } from "./gates.js";
import { drawThermometer } from "./planes.js";
import { Refusal, classify, loadCamera, loadModels } from "./service.js";
import {
  byId, clearError, complain, fill, heedToken, milliseconds, percent, presentLabels, show, stage,
} from "./view.js";
import * as webcam from "./webcam.js";

let sizes = new Map();
let picture = null;
let drawn = null;
let pending = null;

async function ensureModels() {
  if (sizes.size > 0) return;
  const [known, camera] = await Promise.all([loadModels(), loadCamera()]);
  sizes = known;
  byId("model").replaceChildren(...[...sizes.keys()].map((name) => new Option(name, name)));
  show("model-choice", sizes.size > 1);
  show("camera-link", camera.configured);
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
    const answer = await classify(picture.blob, byId("model").value, mine.signal);
    if (pending !== mine) return;
    clearError();
    present(answer);
    byId("status").textContent = `${answer.label}, ${percent(answer.score)}`;
    drawPlanes();
    traceGates();
  } catch (error) {
    if (error.name === "AbortError" || pending !== mine) return;
    show("result", false);
    show("nothing", true);
    byId("nothing").textContent = "No result.";
    complain(error, classifyPicture);
  }
}

function takeFirst(files) {
  if (files.length > 0) take(files[0], files[0].name || "Pasted picture");
}

async function takeSample() {
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
      pending?.abort();
      pending = null;
      picture = null;
      traceGates();
    },
    answered(answer, frame) {
      drawn = frame;
      present(answer);
      drawPlanes();
    },
  });
}

function drawPlanes() {
  const size = sizes.get(byId("model").value);
  const known = drawn !== null && size !== undefined;
  show("planes", known);
  show("planes-note", !known);
  if (known && byId("hood").open) drawThermometer(drawn, size);
}

function traceGates() {
  const model = byId("model").value;
  return showGates(picture, model, sizes.get(model));
}

// --- events -----------------------------------------------------------------------------------------------------

function leaveTargets() {
  byId("stage").classList.remove("over");
}

byId("file").addEventListener("change", (event) => {
  takeFirst([...event.target.files]);
  event.target.value = "";
});
byId("sample").addEventListener("click", takeSample);
byId("webcam").addEventListener("click", () => (webcam.isOn() ? webcam.stop() : startWebcam()));
byId("model").addEventListener("change", classifyPicture);
byId("hood").addEventListener("toggle", () => {
  drawPlanes();
  traceGates();
});
document.addEventListener("paste", (event) => takeFirst([...event.clipboardData.files]));
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
  if (event.dataTransfer.files.length > 0) takeFirst([...event.dataTransfer.files]);
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
