(() => {
  "use strict";
  const table = document.getElementById("episodes");
  if (!table) return;
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const boxes = [...document.querySelectorAll("#filter input")];
  const shown = document.getElementById("shown");

  // Numbers by value, words by letter; what is not there comes last in either direction.
  const compare = (a, b, direction) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return direction * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  };

  const sort = (header) => {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach((other) => { if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none"); });
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const column = header.cellIndex;
    const value = (row) => row.cells[column].dataset.value;
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), ascending ? 1 : -1)));
  };

  const filter = () => {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !wanted.has(row.dataset.status);
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${body.rows.length} episodes shown`;
  };

  headers.forEach((header) => header.querySelector("button")?.addEventListener("click", () => sort(header)));
  boxes.forEach((box) => box.addEventListener("change", filter));
  document.getElementById("filter").hidden = false;
  filter();
})();
