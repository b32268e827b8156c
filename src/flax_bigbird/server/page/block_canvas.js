// Draws a map of blocks: a row for each block of queries, a column for each block of keys. Kinds of
// blocks differ in color and, where the cells are large enough, in shape.

const MIN_SHAPE_SIZE = 6; // pixels of a cell in which a shape can be told apart
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** A canvas with a map of blocks, of which one can be selected. */
export class BlockCanvas {
  /**
   * @param {HTMLCanvasElement} canvas The canvas.
   * @param {function(number, number): void} onSelect Called with the selected blocks of queries
   *   and keys.
   */
  constructor(canvas, onSelect) {
    this._canvas = canvas;
    this._onSelect = onSelect;
    this._selected = [0, 0];
    this._state = null;
    canvas.addEventListener("click", (event) => this._click(event));
    canvas.addEventListener("keydown", (event) => this._press(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Shows a table of weights. */
  show(map, table, isVisible) {
    this._state = { map, table, isVisible };
    this._selected = this._selected.map((block) => Math.min(block, map.size - 1));
    this.draw();
  }

  /** Selects a pair of blocks, without calling `onSelect`. */
  select(query, key) {
    this._selected = [query, key];
    this.draw();
  }

  /** Draws the map at the size that the canvas has on the page. */
  draw() {
    if (this._state === null || !this._canvas.clientWidth) return;
    const size = Math.round(this._canvas.clientWidth * devicePixelRatio);
    if (this._canvas.width !== size) this._canvas.width = this._canvas.height = size;
    const context = this._canvas.getContext("2d");
    const { map, table, isVisible } = this._state;
    const cell = size / map.size;
    context.clearRect(0, 0, size, size);
    const largest = largestWeight(table);
    const style = getComputedStyle(this._canvas);
    table.forEach((row, query) => {
      for (const [key, { weight, kind }] of row) {
        if (!isVisible(kind)) continue;
        context.globalAlpha = 0.12 + 0.88 * Math.sqrt(weight / largest);
        context.fillStyle = style.getPropertyValue(`--${kind}`);
        drawCell(context, kind, key * cell, query * cell, cell);
      }
    });
    context.globalAlpha = 1;
    this._drawSelection(context, size, cell, style.color);
  }

  _drawSelection(context, size, cell, color) {
    const [query, key] = this._selected;
    const width = Math.max(1, Math.round(devicePixelRatio));
    context.strokeStyle = color;
    context.lineWidth = width;
    context.strokeRect(0, query * cell, size, cell);
    context.strokeRect(key * cell, 0, cell, size);
    context.lineWidth = 3 * width;
    context.strokeRect(key * cell, query * cell, cell, cell);
  }

  _click(event) {
    if (this._state === null) return;
    const bounds = this._canvas.getBoundingClientRect();
    const { size } = this._state.map;
    const index = (position, length) =>
      Math.max(0, Math.min(size - 1, Math.floor((size * position) / length)));
    this._choose(
      index(event.clientY - bounds.top, bounds.height),
      index(event.clientX - bounds.left, bounds.width),
    );
  }

  _press(event) {
    const step = STEPS[event.key];
    if (step === undefined || this._state === null) return;
    event.preventDefault();
    const last = this._state.map.size - 1;
    const [query, key] = this._selected.map((block, axis) =>
      Math.max(0, Math.min(last, block + step[axis])),
    );
    this._choose(query, key);
  }

  _choose(query, key) {
    this.select(query, key);
    this._onSelect(query, key);
  }
}

function largestWeight(table) {
  let largest = 1e-9;
  for (const row of table) for (const { weight } of row.values()) largest = Math.max(largest, weight);
  return largest;
}

/** Draws one cell: a square, with stripes for global blocks, or a disc for random ones. */
function drawCell(context, kind, left, top, cell) {
  if (cell < MIN_SHAPE_SIZE || kind === "window" || kind === "full") {
    context.fillRect(left, top, Math.max(cell, 1), Math.max(cell, 1));
  } else if (kind === "random") {
    context.beginPath();
    context.arc(left + cell / 2, top + cell / 2, cell / 2.4, 0, 2 * Math.PI);
    context.fill();
  } else {
    const stripe = cell / 5;
    for (const part of [0, 2, 4]) context.fillRect(left, top + part * stripe, cell, stripe);
  }
}
