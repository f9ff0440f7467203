// How long things are: the scale bar, and lengths in words.

const LARGER = { "µm": ["mm", 1000], mm: ["m", 1000], m: ["km", 1000] };
const WIDEST_PX = 160;

export function lengthWords(length, unit) {
  const larger = LARGER[unit];
  if (larger && length >= larger[1]) return lengthWords(length / larger[1], larger[0]);
  return `${Number(length.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 })} ${unit}`;
}

// The longest of 1, 2, 5 x 10^n that fits.
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= most * (1 + 1e-9)) ?? power;
}

export function drawScale(bar, resolution, perPixel, unit) {
  const length = roundLength(WIDEST_PX * resolution * perPixel);
  bar.style.width = `${length / (resolution * perPixel)}px`;
  bar.firstElementChild.textContent = lengthWords(length, unit);
}
