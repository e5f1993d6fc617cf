"""svg: a plot of ratios against their goals, by hand: readable where there is no program for plots."""

import math
from html import escape

LEFT, RIGHT, WIDTH = 430, 70, 960
LINE, HEAD, GAP = 17, 44, 34
MET, MISSED, GOAL, INK, FAINT = "#3a7d44", "#c06030", "#1f3a93", "#222222", "#dddddd"
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


class Bar:
    """A ratio and its goal; off and on are its records (peers_report.py), or None. A record's goal
    may be None, too."""

    def __init__(self, text, off, on):
        self.text, self.off, self.on = text, off, on

    def values(self):
        for record in (self.off, self.on):
            if record:
                yield from (record["lo"], record["hi"], record["ratio"], record["goal"] or 1)


class Scale:
    """Ratios on a logarithmic axis, from the tick below the least to that above the greatest."""

    def __init__(self, values):
        self.low = max([tick for tick in TICKS if tick <= min(values)], default=TICKS[0])
        self.high = min([tick for tick in TICKS if tick >= max(values)], default=TICKS[-1])

    def x(self, value):
        value = min(max(value, self.low), self.high)
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def ticks(self):
        return [tick for tick in TICKS if self.low <= tick <= self.high]


def text(x, y, what, size=12, anchor="start", color=INK, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}" font-weight="{weight}">{escape(what)}</text>')


def line(x1, y1, x2, y2, color, width=1.0):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"/>')


def bar_draw(bar, scale, y):
    middle = y + LINE / 2
    parts = [text(LEFT - 8, middle + 4, bar.text, 11, "end")]
    goal = (bar.off or bar.on)["goal"]
    if bar.off:
        left, right = sorted((scale.x(1), scale.x(bar.off["ratio"])))
        color = MET if bar.off["met"] else MISSED
        parts.append(f'<rect x="{left:.1f}" y="{y + 3}" width="{max(right - left, 1):.1f}" '
                     f'height="{LINE - 6}" fill="{color}" fill-opacity="0.75"/>')
        parts.append(line(scale.x(bar.off["lo"]), middle, scale.x(bar.off["hi"]), middle, INK, 1.5))
        for end in ("lo", "hi"):
            parts.append(line(scale.x(bar.off[end]), middle - 3, scale.x(bar.off[end]), middle + 3,
                              INK, 1.5))
        parts.append(text(WIDTH - RIGHT + 8, middle + 4, f'{bar.off["ratio"]:.2f}', 11))
    if bar.on:
        x = scale.x(bar.on["ratio"])
        parts.append(f'<path d="M{x:.1f} {middle - 5} l5 5 l-5 5 l-5 -5 z" fill="white" '
                     f'stroke="{INK}"/>')
    if goal:
        parts.append(line(scale.x(goal), y + 1, scale.x(goal), y + LINE - 1, GOAL, 3))
    return parts


def panel_draw(title, bars, y):
    scale = Scale([value for bar in bars for value in bar.values()] + [1])
    bottom = y + HEAD + LINE * len(bars)
    parts = [text(8, y + 16, title, 13, weight="bold")]
    for tick in scale.ticks():
        parts.append(line(scale.x(tick), y + HEAD - 4, scale.x(tick), bottom, FAINT))
        parts.append(text(scale.x(tick), y + HEAD - 8, f"{tick:g}", 11, "middle"))
    parts.append(line(scale.x(1), y + HEAD - 4, scale.x(1), bottom, INK))
    for number, bar in enumerate(bars):
        parts += bar_draw(bar, scale, y + HEAD + LINE * number)
    return parts, bottom + GAP


def draw(title, remarks, panels):
    parts = [text(8, 24, title, 16, weight="bold")]
    parts += [text(8, 42 + 16 * number, remark, 11) for number, remark in enumerate(remarks)]
    y = 42 + 16 * len(remarks)
    for panel_title, bars in panels:
        if bars:
            more, y = panel_draw(panel_title, bars, y)
            parts += more
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">\n'
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
