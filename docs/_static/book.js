// A figure is as wide as the page; a click shows it at its own size, in a box that scrolls to the place.
document.addEventListener("click", (event) => {
  const figure = event.target;
  if (!figure.matches("article img")) return;
  const before = figure.getBoundingClientRect();
  const [x, y] = [(event.clientX - before.x) / before.width, (event.clientY - before.y) / before.height];
  figure.classList.toggle("large");
  const after = figure.getBoundingClientRect();
  figure.parentElement.scrollLeft += after.x + x * after.width - event.clientX;
  window.scrollBy({ top: after.y + y * after.height - event.clientY, behavior: "instant" });
});

document.addEventListener("DOMContentLoaded", () => {
  // A table of sentences is told on a phone row by row (book.css): each cell knows its column's name.
  for (const table of document.querySelectorAll(".table-wrapper table")) {
    const cells = [...table.querySelectorAll("td")];
    const long = (cell) => cell.cellIndex > 0 && cell.textContent.trim().length > 40;
    if (!cells.some(long)) continue;
    table.classList.add("told");
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const cell of cells) {
      const head = cell.textContent.trim() && heads[cell.cellIndex];
      cell.dataset.head = head ? `${head}${head.endsWith("?") ? "" : ":"} ` : "";
    }
  }
  // Printed lines are broken at the page's width; not those of a table, which would fall apart.
  for (const printed of document.querySelectorAll(".cell_output pre")) {
    if (printed.querySelector("span:not(:empty)")) continue; // in colours
    const parts = printed.textContent.split(/(?<=\n)\n/).map((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      if ((text.match(/\S {2,}\S.*\n/g) ?? []).length > 1) part.className = "columns";
      return part;
    });
    printed.replaceChildren(...parts.flatMap((part) => ["\n", part]).slice(1));
  }
});
