// The attention between the blocks of a document, as the server lists it: a row that is not global
// has weights for the blocks that it reads only, so that there is no table of all pairs of tokens.

export const KINDS = {
  window: "Window: the block itself and its neighbors",
  global: "Global: blocks that every block reads",
  random: "Random: other blocks that the pattern adds",
  full: "Full: blocks that read every block",
};
const NAMES = { w: "window", g: "global", r: "random", f: "full" };

/** The attention of all layers and heads of one window of a document. */
export class BlockMap {
  /** @param {Object} content The answer of `/attention` without a token, for all layers and heads. */
  constructor(content) {
    this.size = content.num_blocks;
    this.blockSize = content.block_size;
    this.numLayers = content.layers.length;
    this.numHeads = content.layers[0].heads.length;
    this._layers = content.layers;
    this._tables = new Map();
  }

  /**
   * Returns the links of each row by key block.
   * @param {number} layer The index of the layer.
   * @param {?number} head The index of the head; null for the mean of all heads.
   * @returns {Array<Map<number, {weight: number, kind: string}>>} For each block of queries, the
   *   blocks that it reads.
   */
  table(layer, head) {
    const name = `${layer}/${head}`;
    if (!this._tables.has(name)) this._tables.set(name, this._build(layer, head));
    return this._tables.get(name);
  }

  _build(layer, head) {
    const { heads } = this._layers[layer];
    const shown = head === null ? heads : [heads[head]];
    const table = Array.from({ length: this.size }, () => new Map());
    for (const { rows } of shown) {
      rows.forEach(({ blocks, weights, kinds }, query) => {
        blocks.forEach((key, slot) => {
          const sum = (table[query].get(key)?.weight ?? 0) + weights[slot] / shown.length;
          table[query].set(key, { weight: sum, kind: NAMES[kinds[slot]] });
        });
      });
    }
    return table;
  }

  /** Returns the blocks that a block reads, the largest weight first. */
  reads(layer, head, query) {
    const links = [...this.table(layer, head)[query]];
    return sorted(links.map(([block, { weight }]) => ({ block, weight })));
  }

  /** Returns the blocks that read a block, the largest weight first. */
  readBy(layer, head, key) {
    const links = [];
    this.table(layer, head).forEach((row, block) => {
      if (row.has(key)) links.push({ block, weight: row.get(key).weight });
    });
    return sorted(links);
  }

  /** Returns how many pairs of blocks there are of each kind. */
  counts(layer, head) {
    const counts = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
    for (const row of this.table(layer, head)) for (const { kind } of row.values()) counts[kind] += 1;
    return counts;
  }
}

function sorted(links) {
  return links.sort((a, b) => b.weight - a.weight || a.block - b.block);
}
