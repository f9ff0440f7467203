// The panel beside the map: bands, planes, and a card for each mask and layer; `changed` is called after each change.
import { element } from "./dom.js";
import { key } from "./state.js";

const PLANES = { z: "slice", t: "frame" };
const KEYS = [
  ["drag, arrows", "move"], ["wheel, + -", "zoom"], ["0", "whole image"], ["1 … 9", "mask or layer on, off"],
  ["h", "hide all of them"], ["o", "outlines"], ["i", "image on, off"], ["[ ]", "slice"], [", .", "frame"],
  ["p n", "image before, next"], ["l", "list of images"],
];

// Lines are thin, so they cover; areas let the image through.
export function outline(look, value) {
  look.outline = value;
  look.opacity = value ? 1 : 0.5;
}

export function drawPanel(panel, info, state, changed) {
  const again = () => drawPanel(panel, info, state, changed);
  const both = () => { changed(); again(); };
  const parts = [
    ...Object.entries(info.planes).map(([axis, count]) => planeSlider(axis, count, state, changed)),
    ...info.overlays.map((overlay, n) => card(overlay, n, state.overlays.get(key(overlay)), changed, both)),
    imageCard(info, state, changed, both),
    problems(info),
    element("details", { className: "keys" }, element("summary", { textContent: "Keys" }), list(KEYS)),
  ];
  panel.replaceChildren(...parts.filter(Boolean));
}

function planeSlider(axis, count, state, changed) {
  const shown = element("output", { value: `${state.planes[axis] + 1} of ${count}` });
  const slider = element("input", { type: "range", min: 0, max: count - 1, value: state.planes[axis] });
  slider.setAttribute("aria-label", PLANES[axis]);
  slider.oninput = () => {
    state.planes[axis] = Number(slider.value);
    shown.value = `${state.planes[axis] + 1} of ${count}`;
    changed();
  };
  return element("section", { className: "plane" }, element("h2", { textContent: PLANES[axis] }), shown, slider);
}

function card(overlay, number, look, changed, both) {
  const on = check(overlay.name, look.on, (value) => { look.on = value; both(); });
  on.title = `${overlay.group === "layers" ? "layer" : "mask or target"} ${number + 1}`;
  const parts = [element("h2", {}, on)];
  if (overlay.stale) parts.push(element("p", { className: "warning", textContent: "made from an earlier version of this image; predict again" }));
  if (look.on) {
    parts.push(slider("opacity", look.opacity, (value) => { look.opacity = value; changed(); }));
    if (overlay.kind === "values") parts.push(...channels(overlay, look, both));
    else parts.push(check("outlines only", look.outline, (value) => { outline(look, value); both(); }));
    if (overlay.kind === "classes") parts.push(legend(overlay, look, changed));
    if (overlay.kind === "objects") parts.push(element("p", { className: "soft", textContent: "a colour for each object" }));
  }
  return element("section", { className: look.on ? "overlay on" : "overlay" }, ...parts);
}

function channels(overlay, look, both) {
  const bar = element("div", { className: "ramp" }, element("span", { textContent: "0" }), element("span", { textContent: "1" }));
  if (overlay.channels.length === 1) return [bar];
  return [choice("channel", overlay.channels, look.channel, (value) => { look.channel = value; both(); }), bar];
}

function legend(overlay, look, changed) {
  const rows = overlay.classes.map((info) => {
    const dot = element("span", { className: "swatch" });
    dot.style.backgroundColor = info.background ? "transparent" : `rgb(${info.color.join(" ")})`;
    if (info.background) return element("li", { className: "soft", title: "not painted" }, dot, info.name);
    const box = check("", !look.hidden.has(info.id), (value) => { look.hidden[value ? "delete" : "add"](info.id); changed(); });
    box.append(dot, info.name);
    return element("li", {}, box);
  });
  const grey = element("span", { className: "swatch ignored" });
  return element("ul", { className: "legend" }, ...rows, element("li", { className: "soft" }, grey, "ignored, and ids of no class"));
}

function imageCard(info, state, changed, both) {
  const names = info.bands.names;
  const parts = [element("h2", {}, check("image", state.image, (value) => { state.image = value; changed(); }))];
  if (names.length > 1) {
    const grey = check("grey", state.bands.length === 1, (value) => {
      state.bands = value ? state.bands.slice(0, 1) : Array.from({ length: 3 }, (_, n) => info.bands.shown[n] ?? Math.min(n, names.length - 1));
      both();
    });
    const labels = state.bands.length === 1 ? ["band"] : ["red", "green", "blue"];
    parts.push(grey, ...labels.map((label, n) => choice(label, names, state.bands[n], (value) => { state.bands[n] = value; changed(); })));
  }
  const shown = state.limits ?? info.bands.stretch;
  const [low, high] = shown.map((value, n) => number(n ? "white" : "black", value, () => {
    const next = [low, high].map((label) => Number(label.lastChild.value));
    if (next[0] < next[1]) { state.limits = next; changed(); }
  }));
  const reset = element("button", { type: "button", textContent: "reset" });
  reset.onclick = () => { state.limits = null; state.bands = [...info.bands.shown]; both(); };
  parts.push(element("div", { className: "limits" }, low, high, reset));
  return element("section", { className: "overlay" }, ...parts);
}

function problems(info) {
  if (!info.problems.length) return null;
  const lines = info.problems.map((text) => element("li", { textContent: text }));
  return element("section", { className: "warning" }, element("h2", { textContent: "Not shown" }), element("ul", {}, ...lines));
}

function check(text, checked, set) {
  const box = element("input", { type: "checkbox", checked });
  box.onchange = () => set(box.checked);
  return element("label", {}, box, text);
}

function slider(text, value, set) {
  const input = element("input", { type: "range", min: 0, max: 1, step: 0.05, value });
  input.oninput = () => set(Number(input.value));
  return element("label", { className: "row" }, text, input);
}

function choice(text, names, chosen, set) {
  const select = element("select", {}, ...names.map((name, n) => element("option", { value: n, textContent: name, selected: n === chosen })));
  select.onchange = () => set(Number(select.value));
  return element("label", { className: "row" }, text, select);
}

function number(text, value, set) {
  const input = element("input", { type: "number", step: "any", value: Number(value.toPrecision(5)) });
  input.onchange = set;
  return element("label", {}, text, input);
}

const list = (rows) => element("dl", {}, ...rows.flatMap(([what, does]) => [element("dt", { textContent: what }), element("dd", { textContent: does })]));
