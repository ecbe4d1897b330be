// The rest of what moves, in the same script: it stands behind report.js and uses its helpers.

// ---- Tables that sort

function sortBy(table, column, direction) {
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
  const number = (a, b) => value(a) - value(b);
  const body = table.tBodies[0];
  const ordered = [...body.rows].sort(body.rows[0].cells[column].dataset.value ? number : compare);
  body.append(...(direction === "ascending" ? ordered : ordered.reverse()));
}

for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = element("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = heading.ariaSort === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", direction);
      sortBy(table, column, direction);
    });
  });
}

// ---- Learning curves: an invisible slider over each lets keys, mouse and finger choose where to read it.

document.querySelectorAll(".chart").forEach((chart, number) => {
  const { range, lines } = data.charts[number];
  const xs = [...new Set(lines.flat().map(([x]) => x))].sort((a, b) => a - b);
  const slider = chart.querySelector("input");
  const lineNames = [...chart.querySelectorAll(".legend li > span:not(.at)")].map((name) => name.textContent);
  const values = [...chart.querySelectorAll(".value")];
  slider.max = xs.length - 1;

  function read(index) {
    const x = xs[index];
    const texts = lines.map((points) => {
      const y = points.findLast((point) => point[0] <= x && point[1] !== null)?.[1];
      return y === undefined ? "–" : String(Number(y.toPrecision(4)));
    });
    texts.forEach((text, line) => { values[line].textContent = text; });
    chart.querySelector(".at").textContent = thousands(x);
    chart.querySelector(".cursor").style.left = `${(100 * (x - range[0])) / (range[1] - range[0])}%`;
    slider.value = index;
    slider.setAttribute("aria-valuetext", `${thousands(x)}: ${texts.map((text, line) => `${lineNames[line]} ${text}`).join(", ")}`);
  }

  slider.addEventListener("input", () => read(Number(slider.value)));
  slider.addEventListener("pointermove", (event) => {
    const x = range[0] + (event.offsetX / slider.offsetWidth) * (range[1] - range[0]);
    read(xs.reduce((best, other, at) => (Math.abs(other - x) < Math.abs(xs[best] - x) ? at : best), 0));
  });
  slider.addEventListener("pointerleave", () => read(xs.length - 1));
  read(xs.length - 1);
});
