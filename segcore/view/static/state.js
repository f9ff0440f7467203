// What is shown and how, kept in the page's address behind `#`: it survives a reload, and can be sent to somebody.

export class State {
  constructor(info) {
    const given = new URLSearchParams(location.hash.slice(1));
    this.planes = Object.fromEntries(Object.entries(info.planes).map(([axis, n]) => [axis, plane(given.get(axis), n)]));
    this.bands = given.get("bands")?.split(",").map(Number).filter((band) => band < info.bands.names.length) ?? info.bands.shown;
    this.limits = given.has("low") ? [Number(given.get("low")), Number(given.get("high"))] : null;
    this.image = given.get("image") !== "off";
    this.overlays = new Map(info.overlays.map((overlay) => [key(overlay), look(overlay, given, info)]));
    this.place = given.has("x") ? ["x", "y", "r"].map((name) => Number(given.get(name))) : null;
  }

  // Into the address: only what differs from how the page opens.
  keep(info, view) {
    const query = new URLSearchParams();
    for (const [axis, index] of Object.entries(this.planes)) query.set(axis, index);
    if (String(this.bands) !== String(info.bands.shown)) query.set("bands", this.bands);
    if (this.limits) [["low", 0], ["high", 1]].forEach(([name, at]) => query.set(name, this.limits[at]));
    if (!this.image) query.set("image", "off");
    for (const [name, look] of this.overlays) {
      const options = [look.on ? "on" : "off", look.opacity, look.outline ? "line" : "area", look.channel, [...look.hidden].join(".")];
      query.set(name, options.join("_"));
    }
    const [x, y] = view.getCenter();
    query.set("x", x.toFixed(1));
    query.set("y", (-y).toFixed(1));
    query.set("r", Number(view.getResolution().toPrecision(5)));
    history.replaceState(null, "", `#${query}`);
  }
}

export const key = (overlay) => `${overlay.group}/${overlay.name}`;

function plane(text, count) {
  const given = Number.parseInt(text, 10);
  return given >= 0 && given < count ? given : Math.floor(count / 2);
}

function look(overlay, given, info) {
  const [on, opacity, style, channel, hidden] = (given.get(key(overlay)) ?? "").split("_");
  const first = info.overlays.find((other) => other.group === "labels" && !["valid", "foreground"].includes(other.name));
  return {
    on: on ? on === "on" : overlay === first,
    opacity: opacity ? Number(opacity) : overlay.group === "layers" ? 0.7 : 0.5,
    outline: style === "line",
    channel: Math.min(Number(channel) || 0, (overlay.channels?.length ?? 1) - 1),
    hidden: new Set(hidden ? hidden.split(".").map(Number) : []),
  };
}
