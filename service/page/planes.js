// The thermometer planes of a picture, as the first layer reads them.

const PLANES = 32;
const DRAWN_AT_MOST = 1024;
const ON = { red: [255, 96, 84, 255], green: [72, 214, 120, 255], blue: [92, 146, 255, 255] };
const OFF = [46, 54, 68, 255];

// The level of every 8-bit value: a tie between two levels goes to the even one.
const LEVELS = Uint8Array.from({ length: 256 }, (_, value) => {
  const whole = value >> 3;
  const rest = value & 7;
  return whole + (rest > 4 || (rest === 4 && whole % 2 === 1) ? 1 : 0);
});

// The centre square on white, at its own size (at most DRAWN_AT_MOST), as RGBA.
function square(source) {
  const width = source.naturalWidth || source.width;
  const height = source.naturalHeight || source.height;
  const edge = Math.min(width, height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.min(edge, DRAWN_AT_MOST);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.width);
  context.imageSmoothingEnabled = edge !== canvas.width;
  const [left, top] = [Math.floor((width - edge) / 2), Math.floor((height - edge) / 2)];
  context.drawImage(source, left, top, edge, edge, 0, 0, canvas.width, canvas.width);
  return { edge: canvas.width, rgba: context.getImageData(0, 0, canvas.width, canvas.width).data };
}

// How much of every source pixel each of `size` equal stretches covers, in units of 1/size pixel.
function shares(edge, size) {
  return Array.from({ length: size }, (_, i) => {
    const [from, to] = [i * edge, (i + 1) * edge];
    const covered = [];
    for (let at = Math.floor(from / size); at * size < to; at += 1) {
      covered.push([at, Math.min(to, (at + 1) * size) - Math.max(from, at * size)]);
    }
    return covered;
  });
}

// RGB bytes [size, size, 3]: means over areas, rounded half up.
function shrink({ edge, rgba }, size) {
  const stretches = shares(edge, size);
  const rgb = new Uint8Array(3 * size * size);
  stretches.forEach((rows, y) => stretches.forEach((columns, x) => {
    const sums = [0, 0, 0];
    for (const [row, high] of rows) {
      for (const [column, wide] of columns) {
        const at = 4 * (row * edge + column);
        for (let colour = 0; colour < 3; colour += 1) sums[colour] += high * wide * rgba[at + colour];
      }
    }
    sums.forEach((sum, colour) => { rgb[3 * (y * size + x) + colour] = Math.floor(sum / (edge * edge) + 0.5); });
  }));
  return rgb;
}

function paint(id, width, height, colourAt) {
  const canvas = document.getElementById(id);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) image.data.set(colourAt(x, y), 4 * (y * width + x));
  }
  context.putImageData(image, 0, 0);
}

// Draws `source` (an image or a canvas) at `size` x `size` pixels, and below it the planes of each colour.
export function drawThermometer(source, size) {
  const rgb = shrink(square(source), size);
  paint("input", size, size, (x, y) => [...rgb.subarray(3 * (y * size + x), 3 * (y * size + x) + 3), 255]);
  Object.entries(ON).forEach(([id, on], colour) => {
    const [step, across] = [size + 1, 8];
    paint(id, across * step - 1, (PLANES / across) * step - 1, (x, y) => {
      const [inX, inY] = [x % step, y % step];
      if (inX === size || inY === size) return [0, 0, 0, 0];
      const plane = across * Math.floor(y / step) + Math.floor(x / step);
      return plane < LEVELS[rgb[3 * (inY * size + inX) + colour]] ? on : OFF;
    });
  });
}
