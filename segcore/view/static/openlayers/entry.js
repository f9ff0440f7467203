// What the viewer takes of OpenLayers; `make openlayers` bundles it into ol.js.
export { default as Map } from "ol/Map.js";
export { default as View } from "ol/View.js";
export { default as TileLayer } from "ol/layer/Tile.js";
export { default as TileImage } from "ol/source/TileImage.js";
export { default as TileGrid } from "ol/tilegrid/TileGrid.js";
export { default as Projection } from "ol/proj/Projection.js";
export { default as Zoom } from "ol/control/Zoom.js";
export { defaults as interactions } from "ol/interaction/defaults.js";
export { VERSION } from "ol/util.js";
