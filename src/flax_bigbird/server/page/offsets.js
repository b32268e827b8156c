// Converts between offsets in code points, which the server counts, and in UTF-16 units, which
// strings of JavaScript have. They differ after a character beyond the Basic Multilingual Plane.

/** The offsets of one text. */
export class Offsets {
  /** @param {string} text The text. */
  constructor(text) {
    this._astral = []; // the code-point offsets of the characters that take two units
    this._units = text.length;
    const pairs = /[\ud800-\udbff][\udc00-\udfff]/g;
    for (let match = pairs.exec(text); match !== null; match = pairs.exec(text)) {
      this._astral.push(match.index - this._astral.length);
    }
  }

  /** The length of the text in code points. */
  get length() {
    return this._units - this._astral.length;
  }

  /** Returns the offset in UTF-16 units of an offset in code points. */
  toUnits(offset) {
    return offset + countBefore(this._astral.length, (k) => this._astral[k] < offset);
  }

  /** Returns the offset in code points of an offset in units; within a pair, that of the pair. */
  toCodePoints(offset) {
    return offset - countBefore(this._astral.length, (k) => this._astral[k] + k < offset);
  }
}

/** Returns how many of the first indices fulfill a condition, which no index after them does. */
export function countBefore(count, condition) {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (condition(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}
