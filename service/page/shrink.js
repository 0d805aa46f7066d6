// Pictures with more pixels than the service takes, made smaller before they are sent.

const QUALITY = 0.95;

// `blob` itself, or a smaller JPEG of `image`, which shows it; with a sentence about what was done, else "".
export async function shrink(blob, image, maxPixels) {
  const { naturalWidth: width, naturalHeight: height } = image;
  if (width * height <= maxPixels) return { blob, note: "" };
  const scale = Math.sqrt(maxPixels / (width * height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(scale * width));
  canvas.height = Math.max(1, Math.floor(scale * height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const smaller = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", QUALITY); });
  if (smaller === null) return { blob, note: "" }; // the service then says what it takes
  const note = `sent as ${canvas.width} x ${canvas.height} pixels instead of ${width} x ${height}, as this service takes `
    + `${(maxPixels / 1e6).toLocaleString("en")} megapixels at most`;
  return { blob: smaller, note };
}
