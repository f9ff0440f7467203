// The list of images: what is asked for stands in the page's address, so that it can be kept and gone back to.
import { address, byId, element, fetchJson, percent, showTrouble } from "./dom.js";

const form = byId("query");
let latest = 0;

function asked() {
  return new URLSearchParams([...new FormData(form)].filter(([, value]) => value && value !== "name"));
}

async function show(page) {
  const query = asked();
  if (page) query.set("page", page);
  history.replaceState(null, "", query.size ? `?${query}` : "/");
  const turn = ++latest;
  try {
    const found = await fetchJson(`/api/images?${query}`);
    if (turn !== latest) return; // a later question was quicker
    showTrouble("");
    draw(found);
    if (found.num_known < found.num_images) setTimeout(() => turn === latest && show(page), 1500);
  } catch (error) {
    showTrouble(error.message);
  }
}

function draw(found) {
  byId("workspace").textContent = found.workspace;
  byId("found").textContent = words(found);
  const select = form.elements.split;
  const chosen = select.value;
  select.replaceChildren(element("option", { value: "", textContent: "any" }), ...found.splits.map(option));
  select.value = chosen;
  form.elements.order.disabled = !found.has_scores;
  byId("cards").replaceChildren(...found.rows.map(card));
  const pages = byId("pages");
  pages.replaceChildren();
  if (found.num_pages > 1) {
    pages.append(
      turner("‹ before", found.page - 1, found),
      ` page ${found.page + 1} of ${found.num_pages} `,
      turner("next ›", found.page + 1, found),
    );
  }
  document.body.dataset.state = "ready";
}

const option = (name) => element("option", { value: name, textContent: name });

function words(found) {
  const all = found.num_images.toLocaleString("en");
  const count = found.num_found === found.num_images ? `${all} images` : `${found.num_found.toLocaleString("en")} of ${all} images`;
  return found.num_known < found.num_images ? `${count}; ${found.num_known.toLocaleString("en")} looked at so far` : count;
}

function turner(text, page, found) {
  const inside = page >= 0 && page < found.num_pages;
  return element("button", { type: "button", textContent: text, disabled: !inside, onclick: () => show(page) });
}

function card(row) {
  const complete = row.state === "complete";
  const picture = complete
    ? element("img", { src: `${address("thumbnail", row.id)}?v=${row.version}`, alt: "", loading: "lazy", decoding: "async" })
    : element("span", { className: "nothing", textContent: row.state });
  if (complete) picture.onerror = () => picture.replaceWith(element("span", { className: "nothing", textContent: "no picture" }));
  const tags = [row.split, row.group].filter(Boolean).map((text) => element("span", { className: "tag", textContent: text }));
  const score = row.score === null ? null : element("span", { className: "tag score", textContent: `IoU ${percent(row.score)}`, title: `IoU without background of ${row.scored_mask}` });
  const text = [
    element("strong", { textContent: row.id, title: row.id }),
    element("span", { className: "soft", textContent: complete ? row.size : row.note }),
    element("span", {}, ...tags, score),
  ];
  const frame = element("span", { className: "frame" }, picture);
  const body = complete ? element("a", { href: address("image", row.id) }, frame, ...text) : element("div", {}, frame, ...text);
  return element("li", { className: row.state }, body);
}

const given = new URLSearchParams(location.search);
for (const [key, value] of given) {
  const field = form.elements[key];
  if (!field) continue;
  if (key === "split" && value) field.append(option(value));
  field.value = value;
}
let waiting;
form.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => show(0), 150);
});
form.addEventListener("submit", (event) => event.preventDefault());
show(Number(given.get("page")) || 0);
