// Tables marked data-sort: a click on a column's head sorts by it, a second one the other way round. Rows come sorted by
// the worst; without this script they stay so.
for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column], number = cell.dataset.value;
    if (number !== undefined) return Number(number);
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };
  const compared = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const hint = document.createElement("span");
  hint.className = "screen";
  hint.textContent = ". A click on a heading sorts by it";
  table.caption.append(hint);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      // What has no value stays last, whichever way.
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : way * compared(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
