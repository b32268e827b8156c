"""Draws overview.svg: BigBird's attention pattern, and time and memory against length.

python docs/assets/make_overview.py

The figures come from benchmarks/results/model_forward_cpu.json. The pattern is an illustration with
16 blocks and 2 random blocks per row.
"""

import json
import random
import statistics
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "benchmarks/results/model_forward_cpu.json"
OUTPUT = HERE / "overview.svg"

NUM_BLOCKS, NUM_RANDOM, CELL = 16, 2, 15
COLORS = {"global": "#1f6f8b", "window": "#e07a3f", "random": "#7a5aa6", "": "#eceff1"}
PEERS = {"flax-bigbird": "#1f6f8b", "HF-Torch": "#b5651d", "HF-Flax": "#8a8f98"}
LENGTHS = (4096, 16384)
INK, FAINT = "#333b44", "#8a8f98"
WIDTH, HEIGHT = 920, 350


def text(
    x: float, y: float, value: str, size: int = 13, anchor: str = "start", **style: str
) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{it}"' for name, it in style.items())
    fill = "" if "fill" in style else f' fill="{INK}"'
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{fill}{attributes}>'
        f"{escape(value)}</text>"
    )


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" rx="1.5" '
        f'fill="{fill}"/>'
    )


def pattern() -> list[list[str]]:
    """Returns the kind of each pair of query block and key block."""
    generator, last = random.Random(3), NUM_BLOCKS - 1
    rows = []
    for row in range(NUM_BLOCKS):
        kinds = [""] * NUM_BLOCKS
        if row in (0, last):
            rows.append(["global"] * NUM_BLOCKS)
            continue
        for column in range(max(row - 1, 0), min(row + 2, NUM_BLOCKS)):
            kinds[column] = "window"
        kinds[0] = kinds[last] = "global"
        free = [column for column, kind in enumerate(kinds) if not kind]
        for column in generator.sample(free, NUM_RANDOM):
            kinds[column] = "random"
        rows.append(kinds)
    return rows


def draw_pattern(left: float, top: float) -> list[str]:
    parts = [text(left, top - 34, "What attends to what", 15, font_weight="600")]
    parts.append(text(left, top - 12, "key blocks →", 11, fill=FAINT))
    down = f"rotate(-90 {left - 8:g} {top:g})"
    parts.append(text(left - 8, top, "← query blocks", 11, "end", fill=FAINT, transform=down))
    for row, kinds in enumerate(pattern()):
        for column, kind in enumerate(kinds):
            corner = (left + column * CELL, top + row * CELL)
            parts.append(rectangle(*corner, CELL - 1.5, CELL - 1.5, COLORS[kind]))
    x, y = left, top + NUM_BLOCKS * CELL + 12
    for kind in ("global", "window", "random"):
        parts += [rectangle(x, y, 11, 11, COLORS[kind]), text(x + 16, y + 10, kind, 12)]
        x += 84
    return parts


def draw_bars(
    left: float, top: float, title: str, unit: str, values: dict, digits: int
) -> list[str]:
    """Draws one group of bars per length; `values` maps (peer, length) to a number or None."""
    height, bar, gap = 215, 28, 34
    scale = height / max(value for value in values.values() if value is not None)
    parts = [text(left, top - 34, title, 15, font_weight="600")]
    parts.append(text(left, top - 14, unit, 11, fill=FAINT))
    x = left
    for length in LENGTHS:
        start = x
        for peer, color in PEERS.items():
            value, middle = values[peer, length], x + bar / 2
            if value is None:
                parts.append(text(middle, top + height - 5, "not run", 9, "middle", fill=FAINT))
            else:
                size = max(value * scale, 1)
                parts.append(rectangle(x, top + height - size, bar, size, color))
                label = f"{value:.{digits}f}"
                parts.append(text(middle, top + height - size - 5, label, 11, "middle"))
            x += bar + 7
        parts.append(
            text((start + x - 7) / 2, top + height + 18, f"{length:,} tokens", 12, "middle")
        )
        x += gap
    end = x - gap - 7
    parts.append(
        f'<line x1="{left}" x2="{end}" y1="{top + height}" y2="{top + height}" stroke="{FAINT}"/>'
    )
    return parts


def main() -> None:
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    time, memory = {}, {}
    for peer in PEERS:
        for length in LENGTHS:
            cell = cells[f"{peer}:1:{length}"]
            time[peer, length] = statistics.median(cell["times_s"]) if cell["times_s"] else None
            memory[peer, length] = cell.get("peak_gib")
    top = 62
    parts = draw_pattern(34, top)
    parts += draw_bars(330, top, "Time of a forward pass", "seconds, 2 CPU cores", time, 2)
    parts += draw_bars(630, top, "Peak memory", "GiB, the whole process", memory, 1)
    x = 330
    for peer, color in PEERS.items():
        y = top + NUM_BLOCKS * CELL + 12
        parts += [rectangle(x, y, 11, 11, color), text(x + 16, y + 10, peer, 12)]
        x += 110
    note = "Two layers of base width, float32, batch 1 (benchmarks/results/model_forward_cpu.md)."
    parts.append(text(330, HEIGHT - 10, note, 11, fill=FAINT))
    title = "BigBird's block-sparse attention pattern, and time and memory of a forward pass"
    OUTPUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif">\n<title>{title}</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
