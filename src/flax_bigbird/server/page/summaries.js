// Shows results beside the document: bars of scores, and lists that jump to marks.

import { element, formatted, shortened } from "./dom.js";

/**
 * Returns a table of scores with bars.
 * @param {string} caption What the scores are of.
 * @param {Array<{label: string, score: number}>} rows The rows, in order.
 */
export function bars(caption, rows) {
  const isShare = rows.every((row) => row.score >= 0 && row.score <= 1);
  const largest = Math.max(1e-9, ...rows.map((row) => Math.abs(row.score)));
  const body = rows.map(({ label, score }) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.inlineSize = `${(100 * Math.abs(score)) / (isShare ? 1 : largest)}%`;
    const value = isShare ? `${(100 * score).toFixed(1)}%` : formatted(score);
    const cells = [element("td", { class: "bar-cell" }, bar), element("td", { class: "number" }, value)];
    return element("tr", {}, element("th", { scope: "row" }, label), ...cells);
  });
  return element("table", { class: "bars" }, element("caption", {}, caption), element("tbody", {}, ...body));
}

/**
 * Returns a list of buttons that jump to spans, with buttons for the next and the previous one.
 * @param {import("./highlights.js").Highlights} highlights The marked document.
 * @param {Array<Object>} spans The spans, the best first.
 * @param {function(Object): string} textOf Returns the text of a span.
 */
export function jumps(highlights, spans, textOf) {
  const items = spans.map((span) => {
    const detail = element("span", { class: "number" }, `${span.label} ${formatted(span.score)}`);
    const attributes = { type: "button", class: "jump", click: () => highlights.jump(span) };
    return element("li", {}, element("button", attributes, shortened(textOf(span)), " ", detail));
  });
  const step = (name, direction) =>
    element("button", { type: "button", click: () => highlights.step(direction) }, name);
  const steps = element("div", { class: "actions" }, step("Previous", -1), step("Next", 1));
  const list = element("ol", { class: "jumps" }, ...items);
  return spans.length > 1 ? [list, steps] : [list];
}
