// The viewer of attention: a map of blocks, and for a selected word, what it reads and what reads it.

import { BlockCanvas } from "./block_canvas.js";
import { BlockMap, KINDS } from "./block_map.js";
import { counted, element, formatted, shortened } from "./dom.js";
import { Words } from "./words.js";

const MAX_LINKS = 15; // in a list

/**
 * Where a viewer gets its data from.
 * @typedef {Object} Source
 * @property {string} text The document.
 * @property {boolean} [hasOneWindow] Whether there is data for one window only.
 * @property {function(number): Promise<Object>} blocks Returns the map of a window, with tokens.
 * @property {function(Object): Promise<?Object>} links Returns `reads` and `read_by` of a token,
 *   given `window`, `position`, `layer` and `head`; null if only those of its block are known.
 */

/** A viewer of attention. */
export class AttentionView {
  /**
   * @param {HTMLElement} container The element to fill.
   * @param {Source} source The data.
   * @param {function(Error): void} onError Called with an error of the source.
   */
  constructor(container, source, onError) {
    this._source = source;
    this._onError = onError;
    this._hidden = new Set();
    this._token = null;
    this._links = null;
    this._request = 0;
    this._build(container);
  }

  _build(container) {
    const select = (name, id, change = () => this._change()) => {
      const field = element("select", { id, change });
      return [field, element("div", { class: "field" }, element("label", { for: id }, name), field)];
    };
    const [layer, layerField] = select("Layer", "attention-layer");
    const [head, headField] = select("Head", "attention-head");
    const [direction, directionField] = select("Color the text by", "attention-direction");
    const [part, partField] = select("Part of the document", "attention-window", () =>
      this.open(part.selectedIndex),
    );
    direction.append(new Option("what the word reads", "reads"), new Option("what reads it", "read_by"));
    this._fields = { layer, head, direction, part, partField };
    this._note = element("p", { class: "help" });
    this._kinds = element("fieldset", { class: "kinds" });
    this._canvas = element("canvas", {
      class: "block-map",
      tabindex: 0,
      role: "application",
      "aria-label": "Map of blocks. Rows read columns. The arrow keys move between blocks.",
    });
    this._readout = element("p", { role: "status", "aria-live": "polite", class: "readout" });
    this._others = element("div", { class: "other-tokens" });
    this._text = element("div", {
      class: "document words",
      tabindex: 0,
      role: "application",
      "aria-label": "The text. The left and right arrow keys select a word.",
    });
    this._lists = element("div", { class: "links" });
    this._map = new BlockCanvas(this._canvas, (query, key) => this._describePair(query, key));
    this._words = new Words(this._text, (position) => this.select(position));
    const controls = element("div", { class: "controls" }, partField, layerField, headField, directionField);
    const left = element("div", {}, this._kinds, this._canvas);
    const right = element("div", {}, this._others, this._text);
    const columns = element("div", { class: "columns" }, left, right);
    container.replaceChildren(this._note, controls, columns, this._readout, this._lists);
  }

  /** Shows a window of the document. */
  async open(index = 0) {
    const request = ++this._request;
    this._readout.textContent = "The model reads the document ...";
    try {
      const content = await this._source.blocks(index);
      if (request === this._request) this._show(content);
    } catch (error) {
      this._readout.textContent = "";
      this._onError(error);
    }
  }

  _show(content) {
    this._content = content;
    this._blocks = new BlockMap(content);
    this._token = this._links = null;
    const { numLayers, numHeads } = this._blocks;
    fill(this._fields.layer, numLayers, (n) => `Layer ${n}`, numLayers - 1);
    fill(this._fields.head, numHeads + 1, (n) => (n ? `Head ${n - 1}` : "Mean of all heads"), 0);
    fill(this._fields.part, content.num_windows, (n) => `Window ${n + 1}`, content.window);
    this._fields.partField.hidden = content.num_windows === 1 || this._source.hasOneWindow === true;
    const parts = content.num_windows === 1 ? "" :
      ` This is window ${content.window + 1} of the ${content.num_windows} of the document.`;
    this._note.textContent =
      `${counted(content.num_tokens, "token")} in ${counted(content.num_blocks, "block")} of ` +
      `${content.block_size}.${parts} Rows of the map read columns.`;
    this._words.show(this._source.text, content.tokens);
    const others = [...content.tokens.entries()].filter(([, { start }]) => start === null);
    this._others.replaceChildren(...others.map(([position]) => this._button(position)));
    this._change();
    this._readout.textContent = "Select a word, or a block of the map.";
  }

  /** Shows a layer and a head (null for the mean), and selects the first of some tokens. */
  async choose(layer, head, tokens) {
    this._fields.layer.selectedIndex = layer;
    this._fields.head.selectedIndex = head === null ? 0 : head + 1;
    this._change();
    if (tokens.length) await this.select(tokens[0]);
  }

  /** The layer and the head that are shown; the head is null for the mean. */
  get _selection() {
    const head = this._fields.head.selectedIndex;
    return [this._fields.layer.selectedIndex, head ? head - 1 : null];
  }

  _change() {
    if (this._blocks === undefined) return;
    this._showKinds();
    this._draw();
    if (this._token !== null) this.select(this._token);
  }

  _draw() {
    const isVisible = (kind) => !this._hidden.has(kind);
    this._map.show(this._blocks, this._blocks.table(...this._selection), isVisible);
  }

  _showKinds() {
    const counts = Object.entries(this._blocks.counts(...this._selection));
    const boxes = counts.map(([kind, count]) => {
      const toggle = (event) => {
        if (event.target.checked) this._hidden.delete(kind);
        else this._hidden.add(kind);
        this._draw();
      };
      const checked = !this._hidden.has(kind);
      const box = element("input", { type: "checkbox", checked, change: toggle, value: kind });
      const swatch = element("span", { class: `swatch ${kind}`, "aria-hidden": "true" });
      return element("label", {}, box, swatch, ` ${KINDS[kind]} (${counted(count, "pair")})`);
    });
    this._kinds.replaceChildren(element("legend", {}, "Blocks"), ...boxes);
  }

  /** Selects a token: shows its block at once, and its own links when they arrive. */
  async select(token) {
    const request = ++this._request;
    const [layer, head] = this._selection;
    this._token = token;
    const block = Math.floor(token / this._blocks.blockSize);
    this._map.select(block, block);
    this._words.scrollTo(token);
    this._words.color(token, { positions: [], weights: [] });
    this._readout.textContent = `${this._name(token)}: reading its links ...`;
    try {
      const window = this._content.window;
      const links = await this._source.links({ window, position: token, layer, head });
      if (request === this._request) this._showLinks(token, links);
    } catch (error) {
      if (request !== this._request) return;
      this._readout.textContent = "";
      this._onError(error);
    }
  }

  _showLinks(token, links) {
    const block = Math.floor(token / this._blocks.blockSize);
    if (links === null) {
      const [reads, readBy] = this._blockLinks(block);
      this._showLists(`The block of ${this._name(token)} reads`, reads, "It is read by", readBy);
      this._readout.textContent =
        `The links of block ${block}. Those of the word alone are in the file if it was ` +
        `made with --token ${token}.`;
      return;
    }
    this._words.color(token, links[this._fields.direction.value]);
    const listed = ["reads", "read_by"].map((name) => this._tokenLinks(links[name]));
    this._showLists(`${this._name(token)} reads`, listed[0], "It is read by", listed[1]);
    const [position, weight] = [links.reads.positions[0], links.reads.weights[0]];
    const isPadding = position === undefined;
    const most = isPadding ? "" : ` It reads ${this._name(position)} most: ${percent(weight)}.`;
    this._readout.textContent = `${this._name(token)} of block ${block}.${most}`;
  }

  _tokenLinks({ positions, weights }) {
    return positions.slice(0, MAX_LINKS).map((position, index) => {
      const detail = ` ${percent(weights[index])} (token ${formatted(position)})`;
      return element("li", {}, this._button(position), detail);
    });
  }

  _blockLinks(block) {
    const [layer, head] = this._selection;
    const item = (own) => {
      const text = shortened(this._textOfBlock(own.block), 40);
      return element("li", {}, `Block ${own.block} (${text}) ${percent(own.weight)}`);
    };
    const lists = [this._blocks.reads(layer, head, block), this._blocks.readBy(layer, head, block)];
    return lists.map((links) => links.slice(0, MAX_LINKS).map(item));
  }

  _showLists(firstTitle, first, secondTitle, second) {
    const list = (title, items) =>
      element("div", {}, element("h3", {}, title), element("ol", {}, ...items));
    this._lists.replaceChildren(list(firstTitle, first), list(secondTitle, second));
  }

  _describePair(query, key) {
    const pair = this._blocks.table(...this._selection)[query].get(key);
    const link = pair ? `gives ${percent(pair.weight)} of its attention to` : "does not read";
    this._readout.textContent =
      `Block ${query} (${shortened(this._textOfBlock(query), 50)}) ${link} block ${key} ` +
      `(${shortened(this._textOfBlock(key), 50)})${pair ? `: ${pair.kind}` : ""}.`;
    this._request += 1;
    this._token = null;
    const [reads, readBy] = this._blockLinks(query);
    this._showLists(`Block ${query} reads`, reads, "It is read by", readBy);
    const { blockSize } = this._blocks;
    const last = Math.min(this._content.num_tokens, (key + 1) * blockSize);
    const positions = Array.from({ length: last - key * blockSize }, (_, n) => key * blockSize + n);
    this._words.color(null, { positions, weights: positions.map(() => 1) });
    this._words.scrollTo(positions[Math.floor(positions.length / 2)]);
  }

  _textOfBlock(block) {
    const size = this._blocks.blockSize;
    return this._words.textBetween(block * size, (block + 1) * size);
  }

  /** Returns the text of a token; tokens of the document begin with the space before them. */
  _label(position) {
    return this._content.tokens[position].text.trim() || "(space)";
  }

  _name(position) {
    return `"${this._label(position)}"`;
  }

  _button(position) {
    const attributes = { type: "button", class: "token", title: `Token ${formatted(position)}` };
    return element("button", { ...attributes, click: () => this.select(position) }, this._label(position));
  }
}

/** Fills a list with names, and selects one. */
function fill(field, count, nameOf, selected) {
  const names = Array.from({ length: count }, (_, n) => new Option(nameOf(n), n));
  field.replaceChildren(...names);
  field.selectedIndex = selected;
}

function percent(weight) {
  return `${(100 * weight).toFixed(weight < 0.001 ? 3 : 1)}%`;
}
