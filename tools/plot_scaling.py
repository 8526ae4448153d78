#!/usr/bin/env python3
"""Draw seconds against n, both logarithmic, as an SVG.

    python plot_scaling.py points.json scaling.svg --title "One layer, d = 512"

The JSON is a list of curves: [{"name": "linformer", "points": [[1024, 0.013], [4096, 0.08]]}].
"""

import argparse
import json
import math
import sys
from html import escape
from itertools import cycle
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 500, 80, 40, 44, 60
# Okabe and Ito's, which stay apart for colour-blind readers; dashes keep them apart in print.
STYLES = (("#0072b2", "none"), ("#d55e00", "8 4"), ("#009e73", "2 4"), ("#cc79a7", "8 4 2 4"), ("#56b4e9", "none"), ("#000000", "8 4"))


def read_curves(path):
    listed = json.loads(path.read_text("utf-8"))
    curves = [(str(curve["name"]), sorted((float(n), float(y)) for n, y in curve["points"])) for curve in listed]
    if not any(points for _, points in curves):
        raise ValueError("there is no point to draw")
    for name, points in curves:
        if any(not (math.isfinite(value) and value > 0) for point in points for value in point):
            raise ValueError(f"{name}: a logarithmic axis takes only numbers above 0")
    return curves


class Axis:
    """A logarithmic axis over whole powers of its base, from pixel `start` to pixel `end`."""

    def __init__(self, values, base, start, end):
        # Powers are rounded first, so that a value on one does not fall beside it.
        powers = [round(math.log(value, base), 9) for value in values]
        self.base, self.start, self.end = base, start, end
        self.low = math.floor(min(powers))
        self.high = max(math.ceil(max(powers)), self.low + 1)

    def pixel(self, value):
        share = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most):
        step = math.ceil((self.high - self.low + 1) / most)
        return [float(self.base) ** power for power in range(self.low, self.high + 1, step)]


def line(x1, y1, x2, y2, colour, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def text(x, y, content, anchor="middle", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(content)}</text>'


def grid(x_axis, y_axis):
    right, bottom, middle = WIDTH - RIGHT, HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    for n in x_axis.ticks(9):
        x = x_axis.pixel(n)
        yield line(x, TOP, x, bottom, "#dddddd")
        yield text(x, bottom + 18, f"{n:,.0f}")
    for seconds in y_axis.ticks(9):
        y = y_axis.pixel(seconds)
        yield line(LEFT, y, right, y, "#dddddd")
        yield text(LEFT - 8, y + 4, f"{seconds:g}", "end")
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#000000"/>'
    yield text((LEFT + right) / 2, HEIGHT - 14, "tokens (n)")
    yield text(20, middle, "seconds", more=f'transform="rotate(-90 20 {middle:.1f})"')


def curve(points, colour, dash, x_axis, y_axis):
    places = [(x_axis.pixel(n), y_axis.pixel(seconds)) for n, seconds in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places)


def legend(names):
    size = f'width="{60 + 7.5 * max(map(len, names)):.0f}" height="{20 * len(names) + 8}"'
    yield f'<rect x="{LEFT + 12}" y="{TOP + 8}" {size} fill="#ffffff" stroke="#bbbbbb"/>'
    for index, (name, (colour, dash)) in enumerate(zip(names, cycle(STYLES))):
        y = TOP + 22 + 20 * index
        yield line(LEFT + 20, y, LEFT + 50, y, colour, f'stroke-width="2" stroke-dasharray="{dash}"')
        yield text(LEFT + 58, y + 4, name, "start")


def draw(curves, title):
    places = [point for _, points in curves for point in points]
    x_axis = Axis([n for n, _ in places], 2, LEFT, WIDTH - RIGHT)
    y_axis = Axis([seconds for _, seconds in places], 10, HEIGHT - BOTTOM, TOP)
    # With a background of its own it reads the same on a dark page.
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    yield text(WIDTH / 2, 26, title, more='font-size="16"')
    yield from grid(x_axis, y_axis)
    for (_, points), (colour, dash) in zip(curves, cycle(STYLES)):
        yield from curve(points, colour, dash, x_axis, y_axis)
    yield from legend([name for name, _ in curves])
    yield "</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--title", default="Seconds against length")
    arguments = parser.parse_args()
    try:
        arguments.svg.write_text("\n".join(draw(read_curves(arguments.points), arguments.title)), "utf-8")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        sys.exit(f"error: {arguments.points}: {problem!r}")


if __name__ == "__main__":
    main()
