// Elements, and JSON from the server. Names from outside become text nodes alone, never markup.

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const byId = (id) => document.getElementById(id);

export async function fetchJson(address, signal) {
  const answer = await fetch(address, { signal });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

export function showTrouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export const address = (...parts) => "/" + parts.map(encodeURIComponent).join("/");
