// The map: one layer of tiles for the image and one for each mask or layer, in pixels of level 0, y downwards.
import { Map as OlMap, Projection, TileGrid, TileImage, TileLayer, View, Zoom, interactions } from "./openlayers/ol.js";
import { address } from "./dom.js";

const CLOSEST = 1 / 32; // image pixels per screen pixel

export class ImageMap {
  // `told` hears of each tile that could not be had.
  constructor(target, info, told) {
    this.info = info;
    this.told = told;
    [this.height, this.width] = info.levels[0];
    this.tall = (info.spacing.y ?? 1) / (info.spacing.x ?? 1); // pixels need not be square
    this.extent = [0, -this.height * this.tall, this.width, 0];
    const projection = new Projection({ code: "pixels", units: "pixels", extent: this.extent });
    this.view = new View({
      projection,
      center: [this.width / 2, (-this.height * this.tall) / 2],
      resolution: 1,
      minResolution: CLOSEST,
      maxResolution: Math.max(this.width, this.height * this.tall) / 100,
      extent: this.extent,
      constrainOnlyCenter: true,
      enableRotation: false,
      showFullExtent: true,
    });
    this.map = new OlMap({
      target,
      view: this.view,
      controls: [new Zoom()],
      interactions: interactions({ altShiftDragRotate: false, pinchRotate: false, keyboard: false }),
      maxTilesLoading: 8,
    });
    this.projection = projection;
    this.whole();
    this.map.on("change:size", () => this.isWhole() && this.whole());
  }

  // Tiles of an array whose finest level is the image's level `first`.
  layer(path, first, count, smooth) {
    const resolutions = Array.from({ length: count }, (_, n) => 2 ** (first + count - 1 - n));
    const side = this.info.tile_px;
    const tileGrid = new TileGrid({
      extent: this.extent,
      origin: [0, 0],
      resolutions,
      tileSize: [side, side * this.tall],
    });
    const source = new TileImage({
      projection: this.projection,
      tileGrid,
      interpolate: smooth,
      transition: 0,
      wrapX: false,
      tileLoadFunction: (tile, src) => this.load(tile.getImage(), src),
      tileUrlFunction: () => undefined,
    });
    const layer = new TileLayer({ source, extent: this.extent });
    // Enlarged pixels keep their edges, so that one sees where each begins.
    layer.on("prerender", (event) => {
      event.context.imageSmoothingEnabled = smooth && event.frameState.viewState.resolution >= 1;
    });
    this.map.addLayer(layer);
    const last = first + count - 1;
    return {
      layer,
      // Show tiles by these parameters, which with the place make up their address.
      show: (parameters) => {
        const query = new URLSearchParams(parameters).toString();
        const address_ = ([z, x, y]) => `${address("tile", this.info.id, ...path, last - z, y, x)}?${query}`;
        source.setTileUrlFunction(address_, query);
      },
    };
  }

  async load(picture, src) {
    try {
      const answer = await fetch(src);
      if (!answer.ok) throw Object.assign(new Error((await answer.json()).error), { status: answer.status });
      const url = URL.createObjectURL(await answer.blob());
      picture.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
      picture.src = url;
    } catch (error) {
      picture.src = hatching();
      this.told(error);
    }
  }

  whole() {
    this.map.updateSize();
    this.view.fit(this.extent, { padding: [16, 16, 44, 16] });
    this.fitted = this.where();
  }

  // True as long as nobody has moved it: then it follows the size of the window.
  isWhole() {
    return this.where() === this.fitted;
  }

  where() {
    return [...this.view.getCenter(), this.view.getResolution()].join();
  }

  move(right, down) {
    const [x, y] = this.view.getCenter();
    const step = 120 * this.view.getResolution();
    this.view.animate({ center: this.view.getConstrainedCenter([x + right * step, y - down * step]), duration: 120 });
  }

  zoom(by) {
    this.view.animate({ zoom: this.view.getZoom() + by, duration: 120 });
  }

  // The pixel [y, x] of level 0 under a place of the map; null outside.
  pixel([x, y]) {
    const found = [Math.floor(-y / this.tall), Math.floor(x)];
    return found[0] >= 0 && found[0] < this.height && found[1] >= 0 && found[1] < this.width ? found : null;
  }
}

let hatched;
function hatching() {
  if (!hatched) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 512, height: 512 });
    const context = canvas.getContext("2d");
    context.strokeStyle = "#b3261e";
    context.lineWidth = 3;
    for (let at = -512; at < 512; at += 32) {
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at + 512, 512);
      context.stroke();
    }
    hatched = canvas.toDataURL();
  }
  return hatched;
}
