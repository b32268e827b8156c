// Shows the text of a window, in which tokens can be selected and colored. The text is one node,
// however long it is: colors are those of the CSS Custom Highlight API.

import { Offsets, countBefore } from "./offsets.js";

const LEVELS = 5;
const SELECTED = "token-selected";

/** The text of one window of a document. */
export class Words {
  /**
   * @param {HTMLElement} container The element that shows the text.
   * @param {function(number): void} onSelect Called with the position of a selected token.
   */
  constructor(container, onSelect) {
    this._container = container;
    this._onSelect = onSelect;
    this._tokens = [];
    this._token = null;
    container.addEventListener("click", (event) => this._click(event));
    container.addEventListener("keydown", (event) => this._press(event));
  }

  /**
   * Shows a window.
   * @param {string} text The whole document.
   * @param {Array<{start: ?number, stop: ?number}>} tokens The characters of each token; null for
   *   tokens that are not of the document.
   */
  show(text, tokens) {
    const offsets = new Offsets(text);
    const own = tokens.filter(({ start }) => start !== null);
    const base = own.length ? offsets.toUnits(own[0].start) : 0;
    const end = own.length ? offsets.toUnits(own[own.length - 1].stop) : 0;
    this._node = document.createTextNode(text.slice(base, end));
    this._container.replaceChildren(this._node);
    this._container.scrollTop = 0;
    this._spans = tokens.map(({ start, stop }) =>
      start === null ? null : [offsets.toUnits(start) - base, offsets.toUnits(stop) - base],
    );
    this._tokens = [...tokens.keys()].filter((position) => this._spans[position] !== null);
    this._token = null;
    this.color(null, { positions: [], weights: [] });
  }

  /** Returns the text of the tokens from one position to before another. */
  textBetween(first, last) {
    const spans = this._spans.slice(first, last).filter((span) => span !== null);
    return spans.length ? this._node.data.slice(spans[0][0], spans[spans.length - 1][1]) : "";
  }

  /** Colors tokens by their weights, and marks the selected token. */
  color(selected, { positions, weights }) {
    if (CSS.highlights === undefined) return; // the lists beside the text say the same
    const ranges = Array.from({ length: LEVELS }, () => []);
    const largest = this._largest(positions, weights);
    positions.forEach((position, index) => {
      if (this._spans[position] === null || position === selected) return;
      const level = Math.ceil(LEVELS * Math.sqrt(weights[index] / largest)) - 1;
      ranges[Math.max(0, Math.min(LEVELS - 1, level))].push(this._range(position));
    });
    ranges.forEach((own, level) => CSS.highlights.set(`token-${level}`, new Highlight(...own)));
    const hasPlace = selected !== null && this._spans[selected] !== null;
    const own = hasPlace ? [this._range(selected)] : [];
    CSS.highlights.set(SELECTED, Object.assign(new Highlight(...own), { priority: 1 }));
  }

  /** Scrolls the text to a token, and makes the keyboard go on from there. */
  scrollTo(position) {
    if (this._spans[position] === null) return;
    this._token = position;
    const [box, own] = [this._range(position).getBoundingClientRect(), this._container];
    const top = box.top - own.getBoundingClientRect().top;
    if (top < 0 || top + box.height > own.clientHeight) own.scrollTop += top - own.clientHeight / 3;
  }

  /** Returns the largest weight of a word; that of `[CLS]` would leave all words pale. */
  _largest(positions, weights) {
    const ofWords = (largest, weight, index) =>
      this._spans[positions[index]] === null ? largest : Math.max(largest, weight);
    return weights.reduce(ofWords, 1e-9);
  }

  _range(position) {
    const [first, end] = this._spans[position];
    const text = this._node.data.slice(first, end); // it may begin with the space before the word
    const start = text.trim() ? end - text.trimStart().length : first;
    const range = document.createRange();
    range.setStart(this._node, start);
    range.setEnd(this._node, end);
    return range;
  }

  _click(event) {
    const caret = caretAt(event.clientX, event.clientY);
    if (caret === null || caret.node !== this._node) return;
    const index = countBefore(this._tokens.length, (k) => {
      return this._spans[this._tokens[k]][0] <= caret.offset;
    });
    if (index) this._choose(this._tokens[index - 1]);
  }

  _press(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined || !this._tokens.length) return;
    event.preventDefault();
    const current = this._tokens.indexOf(this._token);
    const next = current < 0 ? 0 : current + step;
    this._choose(this._tokens[Math.max(0, Math.min(this._tokens.length - 1, next))]);
  }

  _choose(position) {
    this._token = position;
    this._onSelect(position);
  }
}

/** Returns the text node and the offset at a point of the screen, or null. */
function caretAt(x, y) {
  if (document.caretPositionFromPoint) {
    const position = document.caretPositionFromPoint(x, y);
    return position && { node: position.offsetNode, offset: position.offset };
  }
  const range = document.caretRangeFromPoint(x, y);
  return range && { node: range.startContainer, offset: range.startOffset };
}
