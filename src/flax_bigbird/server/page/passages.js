// Divides a text into passages, as many as a request may have.

import { Offsets } from "./offsets.js";

const MAX_PASSAGES = 64;

/**
 * Returns the passages of a text with their offsets in code points: its paragraphs, of which
 * neighbors are joined if there are more than a request may have.
 * @param {string} text The text.
 */
export function passages(text) {
  let parts = [];
  let position = 0;
  for (const paragraph of text.split(/(\n[^\S\n]*\n)/)) {
    const start = position + paragraph.length - paragraph.trimStart().length;
    if (paragraph.trim()) parts.push([start, start + paragraph.trim().length]);
    position += paragraph.length;
  }
  const step = Math.ceil(parts.length / MAX_PASSAGES);
  if (step > 1) {
    const firsts = parts.filter((_, index) => index % step === 0);
    const last = parts.length - 1;
    parts = firsts.map(([start], index) => [start, parts[Math.min(last, (index + 1) * step - 1)][1]]);
  }
  const offsets = new Offsets(text);
  return parts.map(([start, end]) => {
    const [from, to] = [offsets.toCodePoints(start), offsets.toCodePoints(end)];
    return { start: from, end: to, text: text.slice(start, end) };
  });
}
