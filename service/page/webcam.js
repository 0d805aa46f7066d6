// The webcam of the browser: its frames are sent to the service one at a time.

import { Refusal, classify } from "./service.js";
import { Stream, byId, clearError, complain, milliseconds, pause, show, stage } from "./view.js";

const LIVE_WIDTH = 320;
const MOST_FAILURES = 5;
const CAMERA_PROBLEMS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the browser's settings for this page.",
  NotFoundError: "No camera was found. Connect one and try again.",
  NotReadableError: "The camera cannot be opened. Another program may be using it.",
};
const NO_CAMERA_HERE = "Browsers give the camera only to pages opened by https, or by http://localhost on the "
  + "machine that runs the service. Open the page that way, or choose a picture.";

let camera = null;

export const isOn = () => camera !== null;

// `prepare`: called first, may wait; `begun`: once there is a camera; `answered`: with each answer and its frame;
// `ended`: when there is none any more.
export async function start(page) {
  clearError();
  if (!navigator.mediaDevices?.getUserMedia) {
    complain(new Error(NO_CAMERA_HERE));
    return;
  }
  const button = byId("webcam");
  button.disabled = true;
  try {
    await page.prepare();
    const constraints = { audio: false, video: { facingMode: "environment", width: { ideal: 2 * LIVE_WIDTH } } };
    const media = await navigator.mediaDevices.getUserMedia(constraints);
    page.begun();
    camera = { media, failures: 0, stream: new Stream(), ended: page.ended };
    const [track] = media.getVideoTracks();
    track.addEventListener("ended", () => {
      stop();
      complain(new Error("The camera was disconnected."));
    });
    const video = byId("video");
    video.srcObject = media;
    await video.play();
    stage("video");
    byId("caption").textContent = track.label;
    show("rates", true);
    button.textContent = "Stop webcam";
    button.setAttribute("aria-pressed", "true");
    follow(camera, page);
  } catch (error) {
    stop();
    const plain = CAMERA_PROBLEMS[error.name] || `The camera cannot be used: ${error.message}`;
    complain(error instanceof Refusal ? error : new Error(plain), () => start(page));
  } finally {
    button.disabled = false;
  }
}

export function stop() {
  if (camera === null) return;
  const { media, ended } = camera;
  for (const track of media.getTracks()) track.stop();
  camera = null;
  byId("video").srcObject = null;
  stage("hint");
  byId("caption").textContent = "";
  show("rates", false);
  byId("webcam").textContent = "Start webcam";
  byId("webcam").setAttribute("aria-pressed", "false");
  ended();
}

async function follow(mine, page) {
  const frame = document.createElement("canvas");
  while (camera === mine) {
    try {
      const answer = await classify(await grab(frame), byId("model").value);
      if (camera !== mine) return;
      if (mine.failures > 0) clearError();
      mine.failures = 0;
      page.answered(answer, frame);
      byId("latency").textContent = milliseconds(answer.roundTrip);
      mine.stream.count(answer.label);
    } catch (error) {
      if (camera !== mine) return;
      mine.failures += 1;
      if (error.status !== 503 || mine.failures >= MOST_FAILURES) {
        stop();
        complain(error, () => start(page));
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
