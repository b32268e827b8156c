// Shows a text in which spans are marked, and jumps from one to the next.

import { element, formatted, scrollTo } from "./dom.js";
import { Offsets } from "./offsets.js";

/**
 * Returns spans in the order of the text, without those that overlap a better one.
 * @param {Array<{start: number, end: number}>} spans Spans, the best first.
 */
export function withoutOverlaps(spans) {
  const kept = [];
  for (const span of spans) {
    if (span.end > span.start && kept.every((k) => span.end <= k.start || span.start >= k.end)) {
      kept.push(span);
    }
  }
  return kept.sort((a, b) => a.start - b.start);
}

/** A text with marks. */
export class Highlights {
  /** @param {HTMLElement} container The element that shows the text. */
  constructor(container) {
    this._container = container;
    this._marks = new Map();
    this._order = [];
    this._current = -1;
  }

  /**
   * Shows a text.
   * @param {string} text The text.
   * @param {Array<{start: number, end: number, label: string, score: number, kind: number}>} spans
   *   Spans in code points, in the order of the text and without overlaps.
   */
  show(text, spans) {
    const offsets = new Offsets(text);
    const nodes = [];
    this._marks.clear();
    this._order = spans;
    this._current = -1;
    let position = 0;
    spans.forEach((span, index) => {
      const [start, end] = [offsets.toUnits(span.start), offsets.toUnits(span.end)];
      nodes.push(text.slice(position, start));
      const mark = this._mark(text.slice(start, end), span, index);
      this._marks.set(span, mark);
      nodes.push(mark);
      position = end;
    });
    nodes.push(text.slice(position));
    this._container.replaceChildren(...nodes);
    this._container.scrollTop = 0;
  }

  _mark(text, span, index) {
    const tag = element("span", { class: "tag" }, ` ${span.label} ${formatted(span.score)}`);
    const attributes = { class: `kind-${span.kind % 6}`, tabindex: -1, "data-index": index };
    return element("mark", attributes, text, tag);
  }

  /** Scrolls to a span and moves the focus there. */
  jump(span) {
    const mark = this._marks.get(span);
    this._current = this._order.indexOf(span);
    for (const other of this._marks.values()) other.removeAttribute("aria-current");
    mark.setAttribute("aria-current", "true");
    scrollTo(mark);
    mark.focus({ preventScroll: true });
  }

  /** Jumps to the span after or before the current one, and around the ends. */
  step(direction) {
    const count = this._order.length;
    if (!count) return;
    const from = this._current < 0 && direction < 0 ? 0 : this._current;
    this.jump(this._order[(from + direction + count) % count]);
  }
}
