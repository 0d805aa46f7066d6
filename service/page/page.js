import { drawThermometer } from "./planes.js";
import { Refusal, classify, hasToken, loadModels, setToken, trace } from "./service.js";

const LIVE_WIDTH = 320;
const RATE_OVER_MS = 2000;
const SETTLED_MS = 1000;
const MOST_FAILURES = 5;
const TRACED_SIZE = 32;

const byId = (id) => document.getElementById(id);
const show = (id, shown) => { byId(id).hidden = !shown; };
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

let sizes = new Map();
let picture = null;
let drawn = null;
let pending = null;
let tracing = null;
let camera = null;
let retry = null;

async function ensureModels() {
  if (sizes.size > 0) return;
  sizes = await loadModels();
  byId("model").replaceChildren(...[...sizes.keys()].map((name) => new Option(name, name)));
  show("model-choice", sizes.size > 1);
}

// --- what the person is told ------------------------------------------------------------------------------------

function complain(error, again) {
  if (error.status === 401) {
    retry = again;
    const wrong = hasToken();
    setToken("");
    show("token-form", true);
    byId("token").focus();
    if (!wrong) return;
    error.message = "The service did not accept this token.";
  }
  byId("error").textContent = error.message;
  if (error.detail) {
    const detail = document.createElement("small");
    detail.textContent = `The service says: ${error.detail}`;
    byId("error").append(detail);
  }
  show("error", true);
}

function clearError() {
  show("error", false);
  byId("error").textContent = "";
}

function fill(list, entries) {
  byId(list).replaceChildren(...entries.map(([name, value]) => {
    const tile = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    tile.append(term, text);
    return tile;
  }));
}

function bar({ label, probability }) {
  const item = document.createElement("li");
  for (const [kind, text] of [["name", label], ["share", percent(probability)], ["track", ""]]) {
    const part = document.createElement(kind === "track" ? "div" : "span");
    part.className = kind;
    part.textContent = text;
    item.append(part);
  }
  const filled = document.createElement("div");
  filled.className = "fill";
  filled.style.width = `${100 * probability}%`;
  item.lastChild.append(filled);
  return item;
}

function present(answer) {
  const times = answer.timings_ms;
  byId("label").textContent = answer.label;
  byId("bars").replaceChildren(...answer.top.map(bar));
  fill("timings", [
    ["Decoding", milliseconds(times.read)], ["Queue", milliseconds(times.queue)],
    ["Network", milliseconds(times.infer)], ["Whole service", milliseconds(times.total)],
    ["Round trip", milliseconds(answer.roundTrip)],
  ]);
  fill("about", ["model", "backend", "board", "arithmetic", "engine"]
    .filter((name) => answer[name])
    .map((name) => [name[0].toUpperCase() + name.slice(1), answer[name]]));
  byId("result").classList.remove("waiting");
  show("nothing", false);
  show("result", true);
}

// --- one picture ------------------------------------------------------------------------------------------------

async function take(blob, name) {
  stopCamera();
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

function stage(id) {
  for (const other of ["hint", "picture", "video"]) show(other, other === id);
  byId("stage").classList.toggle("filled", id !== "hint");
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

// --- the webcam -------------------------------------------------------------------------------------------------

const CAMERA_PROBLEMS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the browser's settings for this page.",
  NotFoundError: "No camera was found. Connect one and try again.",
  NotReadableError: "The camera cannot be opened. Another program may be using it.",
};
const NO_CAMERA_HERE = "Browsers give the camera only to pages opened by https, or by http://localhost on the "
  + "machine that runs the service. Open the page that way, or choose a picture.";

async function startCamera() {
  clearError();
  if (!navigator.mediaDevices?.getUserMedia) {
    complain(new Error(NO_CAMERA_HERE));
    return;
  }
  const button = byId("webcam");
  button.disabled = true;
  try {
    await ensureModels();
    const constraints = { audio: false, video: { facingMode: "environment", width: { ideal: 2 * LIVE_WIDTH } } };
    const stream = await navigator.mediaDevices.getUserMedia(constraints);
    pending?.abort();
    pending = null;
    picture = null;
    traceGates();
    camera = { stream, failures: 0, answered: [], spoken: 0 };
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => {
      stopCamera();
      complain(new Error("The camera was disconnected."));
    });
    const video = byId("video");
    video.srcObject = stream;
    await video.play();
    stage("video");
    byId("caption").textContent = track.label;
    show("rates", true);
    button.textContent = "Stop webcam";
    button.setAttribute("aria-pressed", "true");
    follow(camera);
  } catch (error) {
    stopCamera();
    const plain = CAMERA_PROBLEMS[error.name] || `The camera cannot be used: ${error.message}`;
    complain(error instanceof Refusal ? error : new Error(plain), startCamera);
  } finally {
    button.disabled = false;
  }
}

function stopCamera() {
  if (camera === null) return;
  for (const track of camera.stream.getTracks()) track.stop();
  camera = null;
  byId("video").srcObject = null;
  stage("hint");
  byId("caption").textContent = "";
  show("rates", false);
  byId("webcam").textContent = "Start webcam";
  byId("webcam").setAttribute("aria-pressed", "false");
}

async function follow(mine) {
  const frame = document.createElement("canvas");
  while (camera === mine) {
    try {
      const answer = await classify(await grab(frame), byId("model").value);
      if (camera !== mine) return;
      if (mine.failures > 0) clearError();
      mine.failures = 0;
      drawn = frame;
      present(answer);
      presentRates(mine, answer);
      drawPlanes();
    } catch (error) {
      if (camera !== mine) return;
      mine.failures += 1;
      if (error.status !== 503 || mine.failures >= MOST_FAILURES) {
        stopCamera();
        complain(error, startCamera);
        return;
      }
      complain(error);
      await pause(1000 * error.after);
    }
  }
}

async function grab(frame) {
  const video = byId("video");
  frame.width = LIVE_WIDTH;
  frame.height = Math.max(1, Math.round(LIVE_WIDTH * video.videoHeight / video.videoWidth) || 1);
  frame.getContext("2d", { willReadFrequently: true }).drawImage(video, 0, 0, frame.width, frame.height);
  const blob = await new Promise((resolve) => { frame.toBlob(resolve, "image/jpeg", 0.85); });
  if (blob === null) throw new Error("The browser could not encode the camera's picture.");
  return blob;
}

function presentRates(mine, answer) {
  const now = performance.now();
  mine.answered.push(now);
  while (now - mine.answered[0] > RATE_OVER_MS) mine.answered.shift();
  const span = now - mine.answered[0];
  if (span > 0) byId("rate").textContent = (1000 * (mine.answered.length - 1) / span).toFixed(1);
  byId("latency").textContent = milliseconds(answer.roundTrip);
  if (answer.label !== mine.label) Object.assign(mine, { label: answer.label, since: now });
  // A screen reader hears a label once it has stayed, not every frame.
  if (mine.label !== mine.said && now - mine.since > SETTLED_MS) {
    mine.said = mine.label;
    byId("status").textContent = mine.label;
  }
}

function drawPlanes() {
  const size = sizes.get(byId("model").value);
  const known = drawn !== null && size !== undefined;
  show("planes", known);
  show("planes-note", !known);
  if (known && byId("hood").open) drawThermometer(drawn, size);
}

// The gates of a picture, not of the webcam: the service computes them slowly.
async function traceGates() {
  const model = byId("model").value;
  const asked = byId("hood").open && picture !== null && sizes.get(model) === TRACED_SIZE;
  show("gates", asked);
  if (asked && tracing?.blob === picture.blob && tracing.model === model) return;
  tracing?.abort.abort();
  tracing = null;
  if (!asked) return;
  const mine = { blob: picture.blob, model, abort: new AbortController() };
  tracing = mine;
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
    byId("gates-bars").replaceChildren();
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

// --- events -----------------------------------------------------------------------------------------------------

function leaveTargets() {
  byId("stage").classList.remove("over");
}

byId("file").addEventListener("change", (event) => {
  takeFirst([...event.target.files]);
  event.target.value = "";
});
byId("sample").addEventListener("click", takeSample);
byId("webcam").addEventListener("click", () => (camera === null ? startCamera() : stopCamera()));
byId("model").addEventListener("change", classifyPicture);
byId("hood").addEventListener("toggle", () => {
  drawPlanes();
  traceGates();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  byId("token").value = "";
  show("token-form", false);
  clearError();
  (retry || start)();
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

start();
