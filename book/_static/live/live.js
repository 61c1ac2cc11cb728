// The live page: paint a mask over a radar patch, look at what the networks make of it.
"use strict";

document.addEventListener("DOMContentLoaded", async () => {
  const root = document.getElementById("live");
  if (!root) return;
  const { normalization, classes, patches, encoder, model } = window.liveData;
  const SIDE = encoder.config.image_size, CELL = 32, CELLS = SIDE / CELL; // pixels as this encoder's masks had them
  const LOW = -25, HIGH = 0; // dB, black and white
  const DRAWN = 384; // pixels of a picture's side
  const HATCH = { "built-up": [1], greenhouse: [1, -1] }; // as in the book's maps, for eyes that confuse colours
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const scenes = patches.map(({ db, truth }) => ({
    db: Float32Array.from(new Int16Array(bytes(db).buffer), (v) => v / 100),
    truth: bytes(truth),
  }));
  const state = { patch: 0, offset: 0, window: 1, hidden: new Uint8Array(CELLS * CELLS), cursor: 0, seed: 1, read: null };

  // The page ----------------------------------------------------------------------------------------

  root.innerHTML = `
    <fieldset class="live-controls"><legend>A simulated test patch</legend>
      <label>patch <select id="live-patch">${patches.map((p, i) => `<option value="${i}">${i + 1}</option>`).join("")}</select></label>
      <label>offset <input id="live-offset" type="range" min="-6" max="6" step="0.5" value="0"> <output></output></label>
      <label>power averaged over <input id="live-window" type="range" min="1" max="5" step="1" value="1"> <output></output></label>
      <label>hidden share <input id="live-ratio" type="range" min="0" max="0.9" step="0.1" value="0.4"> <output></output></label>
      <button id="live-draw" type="button">hide another share</button>
      <button id="live-clear" type="button">hide nothing</button>
    </fieldset>
    <div class="live-pictures">
      ${picture("radar", `What the network gets: blue is hidden, black −${-LOW} dB, white ${HIGH} dB`, "Radar patch under a mask: arrow keys move, space hides or shows a cell", 0)}
      ${picture("filled", "What the pretrained network fills in", "The patch with its hidden cells filled in by the pretrained network")}
      ${picture("classes", "What the fine-tuned network calls the whole patch", "Land cover as the fine-tuned network sees it: arrow keys move, and the class is said below", 0)}
      ${picture("doubt", "How sure it is: black 0 %, white 100 %", "Probability of the class that the fine-tuned network names, from black to white")}
      ${picture("truth", "The labels", "Land cover labels of the patch")}
    </div>
    <p id="live-said" role="status"></p>
    <p id="live-under"></p>
    <ul class="live-legend">${classes.map(([name, rgb]) => `<li><span style="background:${lines(name)}rgb(${rgb})"></span>${name}</li>`).join("")}</ul>`;
  const part = (name) => root.querySelector(`#live-${name}`);

  function picture(name, title, label, tab) {
    const focus = tab === undefined ? "" : 'tabindex="0"';
    return `<figure><canvas id="live-${name}" width="${DRAWN}" height="${DRAWN}" role="img" aria-label="${label}" ${focus}></canvas>
      <figcaption>${title}</figcaption></figure>`;
  }

  /** The hatch of a class in the legend. */
  function lines(name) {
    return (HATCH[name] ?? []).map((d) => `repeating-linear-gradient(${-45 * d}deg, #000 0 1px, transparent 1px 5px), `).join("");
  }

  // What is computed --------------------------------------------------------------------------------

  /** Decibels with the offset, after an average of power over window x window pixels. */
  function seen() {
    const { db } = scenes[state.patch], reach = (state.window - 1) / 2;
    return Float32Array.from(db, (value, i) => {
      if (state.window === 1) return value + state.offset;
      const row = Math.floor(i / SIDE), col = i % SIDE;
      let power = 0, count = 0;
      for (let r = Math.max(0, row - Math.floor(reach)); r <= Math.min(SIDE - 1, row + Math.ceil(reach)); r++)
        for (let c = Math.max(0, col - Math.floor(reach)); c <= Math.min(SIDE - 1, col + Math.ceil(reach)); c++) {
          power += 10 ** (db[r * SIDE + c] / 10);
          count++;
        }
      return 10 * Math.log10(power / count) + state.offset;
    });
  }

  const isHidden = (i) => state.hidden[Math.floor(i / SIDE / CELL) * CELLS + Math.floor((i % SIDE) / CELL)] === 1;
  const fill = await networks.simmim(encoder), segment = await networks.segmenter(model);

  function compute() {
    const { mean, std } = normalization, db = seen(), image = db.map((v) => (v - mean) / std);
    const fine = Uint8Array.from({ length: (SIDE / 16) ** 2 }, (_, i) => // 16 px, SimMIM's own cells
      isHidden(Math.floor((i * 16) / SIDE) * 16 * SIDE + ((i * 16) % SIDE)) ? 1 : 0);
    const guess = fill(image, fine).map((v) => v * std + mean);
    const hidden = [...db.keys()].filter(isHidden), visible = [...db.keys()].filter((i) => !isHidden(i));
    const average = (values, of) => values.reduce((total, i) => total + of(i), 0) / values.length;
    const known = visible.length ? average(visible, (i) => db[i]) : mean;
    const errors = hidden.length
      ? [average(hidden, (i) => Math.abs(guess[i] - db[i])), average(hidden, (i) => Math.abs(known - db[i]))]
      : null;
    return { db, guess, errors, ...named(image) };
  }

  /** Class and probability of every pixel; kept until the image changes, for the mask does not touch it. */
  let kept = { image: "" };
  function named(image) {
    const what = `${state.patch} ${state.offset} ${state.window}`;
    if (kept.image === what) return kept;
    const logits = segment(image), number = classes.length;
    const names = new Uint8Array(image.length), sure = new Float32Array(image.length);
    for (let i = 0; i < image.length; i++) {
      const all = logits.subarray(i * number, (i + 1) * number), best = Math.max(...all);
      names[i] = all.indexOf(best);
      sure[i] = 1 / all.reduce((total, v) => total + Math.exp(v - best), 0); // its softmax
    }
    return (kept = { image: what, names, sure });
  }

  // What is drawn -----------------------------------------------------------------------------------

  let result = null;

  function paint(name, colour) {
    const small = new OffscreenCanvas(SIDE, SIDE), ink = small.getContext("2d"), pixels = ink.createImageData(SIDE, SIDE);
    for (let i = 0; i < SIDE * SIDE; i++) pixels.data.set([...colour(i), 255], 4 * i);
    ink.putImageData(pixels, 0, 0);
    const canvas = part(name), sheet = canvas.getContext("2d");
    sheet.imageSmoothingEnabled = false;
    sheet.drawImage(small, 0, 0, canvas.width, canvas.height);
    return sheet;
  }

  function grey(db) {
    const v = (255 * (db - LOW)) / (HIGH - LOW);
    return [v, v, v];
  }

  function drawMask() {
    const sheet = paint("radar", (i) => (isHidden(i) ? [0, 114, 178] : grey(result.db[i])));
    const cell = part("radar").width / CELLS;
    if (document.activeElement !== part("radar")) return;
    sheet.strokeStyle = "#e69f00";
    sheet.lineWidth = 4;
    sheet.strokeRect((state.cursor % CELLS) * cell + 2, Math.floor(state.cursor / CELLS) * cell + 2, cell - 4, cell - 4);
  }

  /** The colour of a class at a pixel, black on its hatch. */
  function inked(index, i) {
    const [name, rgb] = classes[index], row = Math.floor(i / SIDE), col = i % SIDE;
    return (HATCH[name] ?? []).some((d) => (row + d * col + 6 * SIDE) % 6 === 0) ? [0, 0, 0] : rgb;
  }

  /** The three maps, and what they say of the pixel that is read. */
  function drawMaps() {
    const truth = scenes[state.patch].truth, i = state.read;
    const sheets = [
      paint("classes", (i) => inked(result.names[i], i)),
      paint("doubt", (i) => Array(3).fill(255 * result.sure[i])),
      paint("truth", (i) => (truth[i] ? inked(truth[i] - 1, i) : [255, 255, 255])),
    ];
    if (i === null) return;
    const x = ((i % SIDE) + 0.5) * (DRAWN / SIDE), y = (Math.floor(i / SIDE) + 0.5) * (DRAWN / SIDE);
    for (const sheet of sheets)
      for (const [colour, width] of [["#000", 6], ["#fff", 2]]) {
        Object.assign(sheet, { strokeStyle: colour, lineWidth: width });
        sheet.strokeRect(x - 8, y - 8, 16, 16);
      }
    part("under").textContent =
      `In the square: called ${classes[result.names[i]][0]} (${Math.round(100 * result.sure[i])} %), labelled ${truth[i] ? classes[truth[i] - 1][0] : "not at all"}.`;
  }

  function draw() {
    result = compute();
    drawMask();
    paint("filled", (i) => grey(isHidden(i) ? result.guess[i] : result.db[i]));
    drawMaps();
    const truth = scenes[state.patch].truth;
    const labelled = [...truth.keys()].filter((i) => truth[i]);
    const right = labelled.filter((i) => truth[i] - 1 === result.names[i]).length / labelled.length;
    const count = state.hidden.reduce((a, b) => a + b, 0);
    const error = result.errors
      ? ` Mean error in hidden pixels: ${result.errors[0].toFixed(2)} dB; the mean of the visible pixels would err by ${result.errors[1].toFixed(2)} dB.`
      : "";
    part("said").textContent =
      `${count} of ${CELLS * CELLS} cells hidden.${error} The fine-tuned network, which sees every pixel, names ${(100 * right).toFixed(0)} % of the labelled pixels as the labels do.`;
    root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
  }

  let waiting = 0;
  function later() {
    part("said").textContent = "computing …";
    clearTimeout(waiting);
    waiting = setTimeout(draw, 20); // so that the words are seen before the work begins
  }

  // What the reader does ----------------------------------------------------------------------------

  /** Numbers from 0 to 1 that are the same in every browser (mulberry32). */
  function chance(seed) {
    let t = (seed + 0x6d2b79f5) | 0;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  function hideShare(share) {
    const order = [...state.hidden.keys()].sort((a, b) => chance(state.seed * 997 + a) - chance(state.seed * 997 + b));
    state.hidden.fill(0);
    order.slice(0, Math.ceil(share * order.length - 1e-9)).forEach((i) => (state.hidden[i] = 1));
  }

  function said() {
    const texts = {
      offset: `${state.offset > 0 ? "+" : ""}${state.offset} dB`,
      window: `${state.window} × ${state.window} pixels`,
      ratio: `${Math.round(100 * part("ratio").value)} %`,
    };
    for (const [name, text] of Object.entries(texts)) part(name).nextElementSibling.textContent = text;
  }

  const change = (name, kind, act) =>
    part(name).addEventListener(kind, (event) => {
      act(event);
      said();
      later();
    });
  change("patch", "change", (e) => (state.patch = Number(e.target.value)));
  change("offset", "input", (e) => (state.offset = Number(e.target.value)));
  change("window", "input", (e) => (state.window = Number(e.target.value)));
  change("ratio", "input", (e) => hideShare(Number(e.target.value)));
  change("draw", "click", () => {
    state.seed++;
    hideShare(Number(part("ratio").value));
  });
  change("clear", "click", () => state.hidden.fill(0));

  /** Where an arrow key leads from place i of a square, or nothing if it is another key. */
  function stepped(i, key, side, by) {
    const steps = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] };
    if (!(key in steps)) return undefined;
    const kept = (v) => Math.min(side - 1, Math.max(0, v));
    return kept(Math.floor(i / side) + steps[key][0]) * side + kept((i % side) + steps[key][1]);
  }

  const radar = part("radar");
  const cellAt = (event) => {
    const box = radar.getBoundingClientRect();
    const place = (v, size) => Math.min(CELLS - 1, Math.max(0, Math.floor((v / size) * CELLS)));
    return place(event.clientY - box.top, box.height) * CELLS + place(event.clientX - box.left, box.width);
  };
  let brush = null; // what dragging paints: 1 hides, 0 shows
  radar.addEventListener("pointerdown", (event) => {
    state.cursor = cellAt(event);
    brush = 1 - state.hidden[state.cursor];
    state.hidden[state.cursor] = brush;
    radar.setPointerCapture(event.pointerId);
    drawMask();
  });
  radar.addEventListener("pointermove", (event) => {
    if (brush === null) return;
    state.cursor = cellAt(event);
    state.hidden[state.cursor] = brush;
    drawMask();
  });
  for (const kind of ["pointerup", "pointercancel"])
    radar.addEventListener(kind, () => {
      if (brush !== null) later();
      brush = null;
    });
  radar.addEventListener("keydown", (event) => {
    const next = stepped(state.cursor, event.key, CELLS, 1);
    if (next !== undefined) {
      state.cursor = next;
      drawMask();
    } else if (event.key === " ") {
      state.hidden[state.cursor] = 1 - state.hidden[state.cursor];
      later();
    } else return;
    event.preventDefault();
  });
  for (const kind of ["focus", "blur"]) radar.addEventListener(kind, drawMask);

  for (const name of ["classes", "doubt", "truth"])
    part(name).addEventListener("pointermove", (event) => {
      const box = event.target.getBoundingClientRect(), at = (v, size) => Math.min(SIDE - 1, Math.max(0, Math.floor((v / size) * SIDE)));
      state.read = at(event.clientY - box.top, box.height) * SIDE + at(event.clientX - box.left, box.width);
      drawMaps();
    });
  part("classes").addEventListener("keydown", (event) => {
    const move = (i) => stepped(i, event.key, SIDE, 4);
    if (move(0) === undefined) return;
    state.read = state.read === null ? (SIDE * (SIDE + 1)) / 2 : move(state.read); // first the middle
    drawMaps();
    event.preventDefault();
  });

  window.live = { state, compute, networks };
  hideShare(Number(part("ratio").value));
  said();
  draw();
});
