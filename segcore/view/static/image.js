// One image: description --> map, panel, keys; what stands under the cursor; a reload when something was made anew.
import { address, byId, element, fetchJson, percent, showTrouble } from "./dom.js";
import { ImageMap } from "./map.js";
import { drawPanel, outline } from "./panel.js";
import { drawScale, lengthWords } from "./scale.js";
import { State, key } from "./state.js";

const ASK_AFTER_MS = 60;
const LINES_ABOVE = 1000; // outlines lie over all areas
const imageId = decodeURIComponent(location.pathname.split("/")[2]);
const described = address("api", "images", imageId);

function headline(info) {
  document.title = info.id;
  byId("title").textContent = byId("title").title = info.id;
  const [height, width] = info.levels[0];
  const size = `${width.toLocaleString("en")} × ${height.toLocaleString("en")} px`;
  const pixel = info.unit === "px" ? "" : `${lengthWords(info.spacing.x, info.unit)}/px`;
  const score = info.score === null ? "" : `IoU ${percent(info.score)} (${info.scored_mask})`;
  byId("facts").textContent = [info.source, size, pixel, info.dtype, info.split, info.group, score].filter(Boolean).join(" · ");
  byId("facts").title = byId("facts").textContent;
  for (const side of ["before", "after"]) {
    if (info[side]) byId(side).href = address("image", info[side]);
  }
}

function start(info) {
  const state = new State(info);
  const image = new ImageMap("map", info, troubled);
  const shown = new Map();
  shown.set("image", image.layer(["image", "image"], 0, info.levels.length, true));
  info.overlays.forEach((overlay) => {
    shown.set(key(overlay), image.layer([overlay.group, overlay.name], overlay.base_level, overlay.num_levels, false));
  });
  const place = (overlay) => info.overlays.indexOf(overlay);
  const update = () => {
    const [low, high] = state.limits ?? limitsOf(info, state.bands);
    shown.get("image").layer.setVisible(state.image);
    shown.get("image").show({ v: info.version, bands: state.bands, low, high, ...state.planes });
    for (const overlay of info.overlays) {
      const look = state.overlays.get(key(overlay));
      const { layer, show } = shown.get(key(overlay));
      layer.setVisible(look.on);
      layer.setOpacity(look.opacity);
      layer.setZIndex(look.outline ? LINES_ABOVE - place(overlay) : info.overlays.length - place(overlay));
      show({ v: overlay.version, ...parameters(overlay, look), ...state.planes });
    }
    state.keep(info, image.view);
  };
  const redraw = () => { drawPanel(byId("panel"), info, state, update); update(); };
  if (state.place) {
    image.view.setCenter([state.place[0], -state.place[1]]);
    image.view.setResolution(state.place[2]);
  }
  redraw();
  const scale = () => drawScale(byId("scale"), image.view.getResolution(), info.spacing.x ?? 1, info.unit);
  image.view.on("change:resolution", scale);
  scale();
  image.map.on("moveend", () => state.keep(info, image.view));
  image.map.on("rendercomplete", () => { document.body.dataset.state = "ready"; });
  follow(info, state, image);
  listen(info, state, image, redraw);
  window.addEventListener("focus", refresh);
}

function parameters(overlay, look) {
  if (overlay.kind === "values") return { channel: look.channel };
  const hidden = look.hidden.size ? { hidden: [...look.hidden].sort((a, b) => a - b) } : {};
  return look.outline ? { outline: 1, ...hidden } : hidden;
}

// As the server chooses them, of the bands that are shown.
function limitsOf(info, bands) {
  if (String(bands) === String(info.bands.shown)) return info.bands.stretch;
  const low = Math.min(...bands.map((band) => info.bands.limits[band][0]));
  const high = Math.max(...bands.map((band) => info.bands.limits[band][1]));
  return info.dtype === "uint8" ? [0, high >= 160 ? 255 : Math.max(high, 1)] : [low, high];
}

// What stands under the cursor: asked for when it rests for a moment.
function follow(info, state, image) {
  let waiting, request;
  image.map.on("pointermove", (event) => {
    clearTimeout(waiting);
    if (event.dragging) return;
    const pixel = image.pixel(event.coordinate);
    byId("cursor").replaceChildren(...(pixel ? placeWords(info, pixel) : []));
    if (!pixel) return;
    waiting = setTimeout(async () => {
      request?.abort();
      request = new AbortController();
      const visible = info.overlays.filter((overlay) => state.overlays.get(key(overlay)).on);
      const query = new URLSearchParams({ y: pixel[0], x: pixel[1], ...state.planes });
      visible.forEach((overlay) => query.append("of", key(overlay)));
      try {
        const found = await fetchJson(`${described}/values?${query}`, request.signal);
        byId("cursor").replaceChildren(...placeWords(info, pixel), ...valueWords(info, visible, found));
      } catch (error) {
        if (error.name !== "AbortError") byId("cursor").append(element("span", { textContent: error.message }));
      }
    }, ASK_AFTER_MS);
  });
}

const part = (text) => element("span", { textContent: text });

function placeWords(info, [y, x]) {
  const words = [part(`x ${x}, y ${y}`)];
  if (info.unit !== "px") words.push(part(`${lengthWords((x + 0.5) * info.spacing.x, info.unit)}, ${lengthWords((y + 0.5) * info.spacing.y, info.unit)}`));
  if (info.georef) {
    const [a, b, c, d, e, f] = info.georef.transform;
    const [east, north] = [a * (x + 0.5) + b * (y + 0.5) + c, d * (x + 0.5) + e * (y + 0.5) + f];
    const digits = Math.abs(a) < 0.1 ? 5 : 1;
    words.push(part(`${info.georef.epsg ? `EPSG:${info.georef.epsg} ` : ""}${east.toFixed(digits)}, ${north.toFixed(digits)}`));
  }
  return words;
}

function valueWords(info, visible, found) {
  const bands = found.bands.slice(0, 12).map((value, n) => `${info.bands.names[n]} ${shortNumber(value)}`);
  const words = [part(bands.join("  ") + (found.usable ? "" : "  (not usable)"))];
  for (const overlay of visible) words.push(overlayWords(overlay, found[key(overlay)]));
  return words;
}

function overlayWords(overlay, value) {
  if (overlay.kind === "values") {
    const told = value.map((each, n) => (value.length > 1 ? `${overlay.channels[n]} ` : "") + shortNumber(each));
    return part(`${overlay.name}: ${told.join("  ")}`);
  }
  if (overlay.kind === "objects") return part(`${overlay.name}: ${value ? `object ${value}` : "no object"}`);
  const found = overlay.classes.find((info) => info.id === value);
  const dot = element("span", { className: "swatch" });
  dot.style.backgroundColor = found ? `rgb(${found.color.join(" ")})` : "transparent";
  const name = found ? `${found.name} (${value})` : value === overlay.ignore ? "ignored" : String(value);
  return element("span", {}, `${overlay.name}: `, dot, name);
}

const shortNumber = (value) => (value === null ? "–" : String(Number(value.toPrecision(5))));

function listen(info, state, image, redraw) {
  const looks = [...state.overlays.values()];
  const step = (axis, by) => {
    if (!(axis in state.planes)) return;
    state.planes[axis] = Math.min(Math.max(state.planes[axis] + by, 0), info.planes[axis] - 1);
  };
  let hidden = null;
  const actions = {
    ArrowLeft: () => image.move(-1, 0), ArrowRight: () => image.move(1, 0), ArrowUp: () => image.move(0, -1), ArrowDown: () => image.move(0, 1),
    "+": () => image.zoom(1), "=": () => image.zoom(1), "-": () => image.zoom(-1), 0: () => image.whole(),
    "[": () => step("z", -1), "]": () => step("z", 1), ",": () => step("t", -1), ".": () => step("t", 1),
    i: () => { state.image = !state.image; },
    o: () => { const lines = !looks.some((look) => look.on && look.outline); looks.forEach((look) => outline(look, lines)); },
    h: () => {
      const before = hidden;
      hidden = before ? null : looks.map((look) => look.on);
      looks.forEach((look, n) => { look.on = before ? before[n] : false; });
    },
    n: () => byId("after").href && byId("after").click(), p: () => byId("before").href && byId("before").click(), l: () => byId("back").click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select")) return;
    const number = Number(event.key);
    const action = number >= 1 && number <= looks.length ? () => { looks[number - 1].on = !looks[number - 1].on; } : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
    redraw();
  });
}

function troubled(error) {
  showTrouble(error.message);
  if (error.status === 404 || error.status === 409) refresh();
}

// Is all still what it was? A mask that was made anew has other tiles, at other addresses.
let asking = false;
async function refresh() {
  if (asking) return;
  asking = true;
  try {
    const now = await fetchJson(described);
    if (versions(now) !== current) location.reload();
  } catch (error) {
    showTrouble(error.message);
  } finally {
    setTimeout(() => { asking = false; }, 2000);
  }
}

const versions = (info) => [info.version, ...info.overlays.map((overlay) => overlay.name + overlay.version)].join();
let current = "";

fetchJson(described).then(
  (info) => {
    current = versions(info);
    headline(info);
    start(info);
  },
  (error) => {
    byId("title").textContent = imageId;
    showTrouble(error.message);
    document.body.dataset.state = "ready";
  },
);
