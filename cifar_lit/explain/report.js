// The gallery and what filters it. Names of classes are untrusted: they only ever become text, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const { names, confusion, cards, sprites } = data;
const PAGE = 30; // cards that are made at a time
const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(share) {
  if (share > 0.9995) return ">99.9 %";
  return share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`;
}


const thousands = (number) => number.toLocaleString("en");
const plural = (count, noun) => `${thousands(count)} ${noun}${count === 1 ? "" : "s"}`;

// ---- Pictures: a sheet is decoded when the first of its tiles is wanted.

const decoded = new Map();

function sheet(kind, number) {
  const key = `${kind} ${number}`;
  if (!decoded.has(key)) {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${sprites.sheets[kind][number]}`;
    decoded.set(key, image.decode().then(() => image));
  }
  return decoded.get(key);
}

async function draw(canvas, kind, position) {
  const { width, height, pitch, columns, tiles } = sprites;
  const image = await sheet(kind, Math.floor(position / tiles));
  const tile = position % tiles;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [left, top] = [(tile % columns) * pitch[0], Math.floor(tile / columns) * pitch[1]];
  context.drawImage(image, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function drawOverlay(canvas, picture, kind, position) {
  const map = await draw(canvas, kind, position);
  for (let at = 0; at < map.data.length; at += 4) {
    const colour = sprites.colours[map.data[at]];
    for (let channel = 0; channel < 3; channel++) {
      map.data[at + channel] = (picture.data[at + channel] + colour[channel]) / 2;
    }
  }
  canvas.getContext("2d").putImageData(map, 0, 0);
}

// ---- Cards

function probability(name, share, className) {
  const item = element("li", className);
  const bar = element("i");
  bar.style.setProperty("--share", share);
  const track = element("span");
  track.append(bar);
  item.append(element("span", "name", name), track, element("span", "", percent(share)));
  return item;
}

function card(position) {
  const [truth, predicted] = [cards.true[position], cards.predicted[position]];
  const made = $("card").content.firstElementChild.cloneNode(true);
  made.dataset.pair = `${truth},${predicted}`;
  const number = cards.index[position];
  const labels = {
    picture: `Image ${number}, of class ${names[truth]}`,
    predicted: `Where the network looked for ${names[predicted]}, the class that it predicted`,
    true: `Where the network looked for ${names[truth]}, the true class`,
  };
  const canvases = {};
  for (const [kind, label] of Object.entries(labels)) {
    const figure = made.querySelector(`figure.${kind}`);
    if (!sprites.sheets[kind].length) {
      figure.remove();
      continue;
    }
    canvases[kind] = figure.querySelector("canvas");
    canvases[kind].width = sprites.width;
    canvases[kind].height = sprites.height;
    canvases[kind].setAttribute("aria-label", label);
  }
  for (const name of made.querySelectorAll(".true .name, .name.true")) name.textContent = names[truth];
  for (const name of made.querySelectorAll(".predicted .name, .name.predicted")) name.textContent = names[predicted];
  const top = made.querySelector(".top");
  const role = (label) => (label === predicted ? "predicted" : label === truth ? "true" : "");
  cards.top[position].forEach((label, rank) => {
    top.append(probability(names[label], cards.top_probabilities[position][rank], role(label)));
  });
  if (!cards.top[position].includes(truth)) {
    top.append(probability(names[truth], cards.true_probability[position], "true rest"));
  }
  const file = cards.file ? `, ${cards.file[position]}` : "";
  made.querySelector(".facts").textContent =
    `loss ${cards.loss[position].toFixed(2)}, image ${thousands(number)}${file}`;
  draw(canvases.picture, "picture", position).then((picture) => {
    for (const kind of ["predicted", "true"]) if (canvases[kind]) drawOverlay(canvases[kind], picture, kind, position);
  });
  return made;
}

// ---- Gallery: what it shows follows from the filter, the order and the number of open cards.

const filter = { truth: -1, predicted: -1 };
const pairButtons = new Map();
let matching = [];

const ORDERS = {
  worst: (a, b) => cards.loss[b] - cards.loss[a],
  surest: (a, b) => cards.top_probabilities[b][0] - cards.top_probabilities[a][0],
  "least-sure": (a, b) => cards.top_probabilities[a][0] - cards.top_probabilities[b][0],
  true: (a, b) => cards.true[a] - cards.true[b] || ORDERS.worst(a, b),
  predicted: (a, b) => cards.predicted[a] - cards.predicted[b] || ORDERS.worst(a, b),
};

function errorsOf({ truth, predicted }) {
  let count = 0;
  confusion.forEach((row, t) => row.forEach((images, p) => {
    if (t !== p && (truth < 0 || truth === t) && (predicted < 0 || predicted === p)) count += images;
  }));
  return count;
}

function say() {
  const { truth, predicted } = filter;
  const which = [truth < 0 ? "" : `true ${names[truth]}`, predicted < 0 ? "" : `predicted ${names[predicted]}`];
  const errors = errorsOf(filter);
  const parts = [`${plural(errors, "error")}${which.some(Boolean) ? `: ${which.filter(Boolean).join(", ")}` : ""}.`];
  if (truth >= 0 && truth === predicted) parts[0] = correctNote(truth);
  else if (!cards.index.length && !errors) parts[0] = "No errors: every image is classified right.";
  if (matching.length < errors) parts.push(`The gallery holds ${thousands(matching.length)} of them.`);
  const open = $("cards").children.length;
  if (open < matching.length) parts.push(`The first ${thousands(open)} are shown.`);
  $("status").textContent = parts.join(" ");
}

const correctNote = (label) =>
  `${plural(confusion[label][label], "image")} of ${names[label]} classified right. ` +
  "Correct images are not in the gallery.";

function openMore() {
  const open = $("cards").children.length;
  $("cards").append(...matching.slice(open, open + PAGE).map(card));
  const left = matching.length - $("cards").children.length;
  $("more").hidden = left === 0;
  $("more").textContent = `Show ${Math.min(PAGE, left)} more of ${thousands(left)}`;
  say();
  return $("cards").children[open];
}

function showFiltered() {
  const { truth, predicted } = filter;
  const wanted = (at) => (truth < 0 || cards.true[at] === truth) && (predicted < 0 || cards.predicted[at] === predicted);
  matching = cards.index.map((_, at) => at).filter(wanted).sort(ORDERS[$("order").value]);
  $("true").value = truth;
  $("predicted").value = predicted;
  pairButtons.forEach((buttons, pair) => {
    for (const button of buttons) button.setAttribute("aria-pressed", pair === `${truth},${predicted}`);
  });
  $("cards").replaceChildren();
  openMore();
}

function setFilter(truth, predicted) {
  Object.assign(filter, { truth, predicted });
  const parameters = new URLSearchParams();
  if (truth >= 0) parameters.set("true", names[truth]);
  if (predicted >= 0) parameters.set("predicted", names[predicted]);
  showFiltered();
  try {
    history.pushState(null, "", `#${parameters}`);
  } catch {
    // A page within another's srcdoc has no address to put it in.
  }
}

function readHash() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  filter.truth = names.indexOf(parameters.get("true"));
  filter.predicted = names.indexOf(parameters.get("predicted"));
  showFiltered();
}

function choose(truth, predicted) {
  setFilter(truth, predicted);
  const { top } = $("gallery-heading").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) $("gallery-heading").scrollIntoView();
}

for (const [id, key] of [["true", "truth"], ["predicted", "predicted"]]) {
  $(id).append(new Option("All", -1), ...names.map((name, label) => new Option(name, label)));
  $(id).addEventListener("change", () => setFilter(...Object.values({ ...filter, [key]: Number($(id).value) })));
}
$("order").addEventListener("change", showFiltered);
$("all").addEventListener("click", () => setFilter(-1, -1));
$("more").addEventListener("click", () => openMore().focus({ preventScroll: true }));
addEventListener("hashchange", () => {
  if (!location.hash || location.hash.includes("=")) readHash(); // a link to a section leaves the gallery as it is
});

// ---- Confusion matrix: every cell becomes a button; one of them is in the order of the Tab key, arrows reach the rest.

for (const place of document.querySelectorAll("[data-pair]")) {
  const pair = place.dataset.pair;
  const [truth, predicted] = pair.split(",").map(Number);
  const button = element("button");
  button.type = "button";
  button.append(...place.childNodes);
  if (place.matches("td")) {
    const images = plural(confusion[truth][predicted], "image");
    button.setAttribute("aria-label", `${images} of ${names[truth]} predicted as ${names[predicted]}`);
  }
  button.addEventListener("click", () => {
    const again = filter.truth === truth && filter.predicted === predicted;
    if (again) setFilter(-1, -1);
    else choose(truth, predicted);
  });
  place.append(button);
  pairButtons.set(pair, [...(pairButtons.get(pair) ?? []), button]);
}

const matrix = document.querySelector(".matrix tbody"); // which a page of very many classes has not
const cellButton = (row, column) => matrix?.rows[row]?.cells[column + 1]?.querySelector("button"); // behind the heading
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
for (const button of matrix?.querySelectorAll("button") ?? []) button.tabIndex = -1;
if (matrix) cellButton(0, 0).tabIndex = 0;
matrix?.addEventListener("keydown", (event) => {
  // Such as Alt and the left arrow, which go back.
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const [row, column] = event.target.parentElement.dataset.pair.split(",").map(Number);
  const step = STEPS[event.key];
  const last = names.length - 1;
  const next = step ? cellButton(row + step[0], column + step[1])
    : event.key === "Home" ? cellButton(row, 0) : event.key === "End" ? cellButton(row, last) : null;
  if (next) next.focus();
  if (step || next) event.preventDefault();
});
matrix?.addEventListener("focusin", (event) => {
  matrix.querySelector("[tabindex='0']").tabIndex = -1;
  event.target.tabIndex = 0;
});

// ---- Start

const stops = sprites.colours.filter((_, at) => at % 15 === 0).map((colour) => `rgb(${colour})`);
$("scale")?.style.setProperty("background", `linear-gradient(90deg, ${stops})`);
$("suspects")?.append(...data.suspects.map(card));
readHash();
