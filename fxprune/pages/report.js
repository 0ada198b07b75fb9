// What a reader can do with the page: sort and filter tables, and follow the wires of the graph.
// It reads nothing but the page, and runs where the hash in the page's policy is its own.
"use strict";

const text = (cell) => cell.dataset.value ?? cell.textContent.trim();

function sorted(rows, column, up) {
  const key = (row) => text(row.cells[column]);
  return rows.sort((a, b) => {
    const [left, right] = up ? [key(a), key(b)] : [key(b), key(a)];
    return left.localeCompare(right, "en", { numeric: true });
  });
}

function sortable(table) {
  const body = table.tBodies[0];
  for (const title of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const up = title.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...sorted([...body.rows], title.cellIndex, up));
    });
  }
}

function filtered(list, items, what) {
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = `Show only ${what} with ...`;
  field.setAttribute("aria-label", field.placeholder);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const item of items) {
      item.classList.toggle("hidden", !item.textContent.toLowerCase().includes(wanted));
    }
  });
  (list.closest(".scroll") ?? list).before(field);
}

for (const table of document.querySelectorAll("table.sortable")) {
  sortable(table);
  filtered(table, table.tBodies[0].rows, "rows");
}

for (const graph of document.querySelectorAll(".graph")) {
  const stops = [...graph.querySelectorAll(".stop")];
  const wires = [...graph.querySelectorAll("path")];
  const told = document.getElementById("stop-told");
  const ask = told.textContent;
  let chosen = null;
  const choose = (stop) => {
    chosen = chosen === stop ? null : stop;
    const number = chosen?.dataset.number;
    graph.classList.toggle("following", chosen !== null);
    const near = new Set([number]);
    for (const wire of wires) {
      const touches = wire.dataset.start === number || wire.dataset.end === number;
      wire.classList.toggle("near", touches);
      if (touches) near.add(wire.dataset.start).add(wire.dataset.end);
    }
    for (const each of stops) {
      each.classList.toggle("near", near.has(each.dataset.number));
      each.setAttribute("aria-pressed", String(each === chosen));
    }
    told.textContent = chosen?.dataset.told ?? ask;
  };
  for (const stop of stops) stop.addEventListener("click", () => choose(stop));
  for (const button of document.querySelectorAll("[data-shows]")) {
    button.addEventListener("click", () => {
      graph.dataset.showing = button.dataset.shows;
      for (const other of document.querySelectorAll("[data-shows]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
    });
  }
}
for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;
