// The page at /camera: what the service's own camera sees.

import { Refusal, loadCamera, openStream } from "./service.js";
import {
  Stream, byId, clearError, complain, fill, heedToken, milliseconds, pause, presentLabels, show, stage,
} from "./view.js";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 5000;
const LOST = "The connection to the service was lost. Trying again …";

let watching = null;

async function watch() {
  const mine = { socket: null, stream: new Stream(), trouble: false };
  watching = mine;
  let delay = FIRST_RETRY_MS;
  presentButton();
  while (watching === mine) {
    try {
      await ensurePlace();
      const frames = await follow(mine);
      if (watching === mine) complain(new Error(LOST));
      if (frames > 0) delay = FIRST_RETRY_MS;
    } catch (error) {
      if (watching !== mine) return;
      complain(error, watch);
      if (error.status === 401 || error.status === 404) {
        rest();
        return;
      }
    }
    mine.trouble = true;
    if (watching === mine) await pause(delay);
    delay = Math.min(2 * delay, LONGEST_RETRY_MS);
  }
}

// A browser is not told why a WebSocket was refused.
async function ensurePlace() {
  const camera = await loadCamera();
  if (!camera.configured) throw Object.assign(new Error("This service shows no camera."), { status: 404 });
  byId("caption").textContent = camera.source;
  if (camera.viewers >= camera.most_viewers) throw new Refusal(503, `${camera.viewers} viewers are watching already`);
}

// Shows what comes until the connection ends: the number of frames.
function follow(mine) {
  return new Promise((resolve) => {
    let frames = 0;
    let described = null;
    mine.socket = openStream();
    mine.socket.binaryType = "blob";
    mine.socket.addEventListener("message", ({ data }) => {
      if (watching !== mine) return;
      if (mine.trouble) clearError();
      mine.trouble = false;
      if (typeof data !== "string") {
        showPicture(data);
        present(mine, described);
        frames += 1;
        return;
      }
      described = JSON.parse(data);
      if (described.type === "camera") presentState(described);
    });
    mine.socket.addEventListener("close", () => resolve(frames));
  });
}

function showPicture(blob) {
  const image = byId("picture");
  const before = image.src;
  image.src = URL.createObjectURL(blob);
  if (before) URL.revokeObjectURL(before);
  if (image.hidden) stage("picture");
}

function present(mine, frame) {
  if (frame.error === undefined) {
    presentLabels(frame);
    const times = frame.timings_ms;
    fill("timings", [
      ["Resizing", milliseconds(times.read)], ["Queue", milliseconds(times.queue)],
      ["Network", milliseconds(times.infer)],
    ]);
  } else {
    presentNothing(frame.error);
  }
  byId("latency").textContent = milliseconds(frame.latency_ms);
  byId("camera-rate").textContent = frame.per_second.camera.toFixed(1);
  byId("skipped").textContent = frame.skipped;
  mine.stream.count(frame.label || "");
}

function presentState({ message }) {
  stage("hint");
  byId("hint").textContent = message;
  byId("status").textContent = message;
  byId("result").classList.add("waiting");
}

function presentNothing(text) {
  show("result", false);
  show("nothing", true);
  byId("nothing").textContent = text;
}

function presentButton() {
  byId("watch").textContent = watching === null ? "Watch" : "Pause";
}

// Ends it: the service closes the camera when nobody watches.
function rest() {
  const { socket } = watching;
  watching = null;
  socket?.close();
  byId("result").classList.add("waiting");
  presentButton();
}

byId("watch").addEventListener("click", () => {
  if (watching !== null) {
    rest();
    return;
  }
  clearError();
  watch();
});
byId("full").addEventListener("click", () => byId("stage").requestFullscreen());
show("full", document.fullscreenEnabled);
// A browser may keep a page that was left, with its connection.
window.addEventListener("pagehide", () => watching !== null && rest());
window.addEventListener("pageshow", (event) => event.persisted && watching === null && watch());
heedToken(watch);
watch();
