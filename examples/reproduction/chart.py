"""Line charts as self-contained SVG, with nothing but the standard library: what report.py draws with.

Colours are Okabe and Ito's, or a ramp of growing lightness where the order means something, so that they can be
told apart without seeing hues and in grey print. Series are labelled beside their ends, not in a legend.
"""

import math
from html import escape

INK = "#222222"
SOFT = "#666666"
GRID = "#e6e6e6"
PAPER = "#ffffff"
BLUE = "#0072b2"
VERMILION = "#c44e00"
# Dark to light by rank, the lightest with contrast enough on white.
RAMP = ["#0d0887", "#5b02a3", "#9a179b", "#cb4679", "#e56b5d", "#f0901f"]

LABEL_PX = 15


def nice_ticks(low, high, count=7):
    """Multiples of 1, 2 or 5 times a power of ten that lie within [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def log_ticks(low, high):
    """Round numbers, closer together where they are smaller."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [round(m * 10.0**power, 10) for power in powers for m in (1, 1.5, 2, 3, 4, 5, 6, 8)]
    return [tick for tick in ticks if low <= tick <= high]


def spread(wanted, gap, low, high):
    """Places near the wanted ones, `gap` apart and within [low, high] where they fit, in the same order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [min(max(wanted[i], low), high) for i in order]
    # Groups that touch move together, around the mean of what they want.
    groups = []
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1:
            (a, n), (b, m) = groups[-2], groups[-1]
            if b - a >= gap * (n + m) / 2 - 1e-9:
                break
            centre = (a * n + b * m) / (n + m)
            centre = max(low + gap * (n + m - 1) / 2, min(high - gap * (n + m - 1) / 2, centre))
            groups[-2:] = [[centre, n + m]]
    spaced = [centre + gap * (i - (n - 1) / 2) for centre, n in groups for i in range(n)]
    result = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        result[i] = spaced[rank]
    return result


class Panel:
    """One pair of axes within a picture: pixels [left, right] x [top, bottom] show [x0, x1] x [y0, y1]; with `log`
    equal ratios of y are equally far apart."""

    def __init__(self, picture, box, x_range, y_range, log=False):
        self.picture = picture
        self.left, self.top, self.right, self.bottom = box
        self.x0, self.x1 = x_range
        self.y0, self.y1 = y_range
        self.log = log
        self.clip = picture.clip(box)
        self.ends = []

    def x(self, value):
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value):
        low, high, value = (math.log(v) if self.log else v for v in (self.y0, self.y1, value))
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_ticks, x_title, y_title, x_format="{:g}"):
        """Faint horizontal lines, ticks with numbers, and what the axes mean (the y title stands above its axis)."""
        p = self.picture
        for tick in log_ticks(self.y0, self.y1) if self.log else nice_ticks(self.y0, self.y1):
            y = self.y(tick)
            p.add(f'<line x1="{self.left:.1f}" y1="{y:.1f}" x2="{self.right:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
            p.text(self.left - 8, y + 4, f"{tick:g}", anchor="end", colour=SOFT)
        p.add(
            f'<line x1="{self.left:.1f}" y1="{self.bottom:.1f}" x2="{self.right:.1f}" y2="{self.bottom:.1f}" '
            f'stroke="{SOFT}"/>'
        )
        for tick in x_ticks:
            x = self.x(tick)
            p.add(f'<line x1="{x:.1f}" y1="{self.bottom:.1f}" x2="{x:.1f}" y2="{self.bottom + 5:.1f}" stroke="{SOFT}"/>')
            p.text(x, self.bottom + 19, x_format.format(tick), anchor="middle", colour=SOFT)
        p.text((self.left + self.right) / 2, self.bottom + 40, x_title, anchor="middle")
        p.text(self.left - 34, self.top - 14, y_title)

    def line(self, name, points, colour, width=2.0, dash=None, opacity=1.0):
        """A series of (x, y), cut off at the panel's edges; `name` is what a pointer that rests on it reads."""
        if len(points) == 1:
            self.dot(name, points[0], colour, radius=width + 0.5)
        if len(points) < 2:
            return
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        style += f' stroke-opacity="{opacity:g}"' if opacity < 1.0 else ""
        self.picture.add(
            f'<polyline class="series" clip-path="url(#{self.clip})" points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="{width:g}" stroke-linejoin="round" stroke-linecap="round"{style}>'
            f"<title>{escape(name)}</title></polyline>"
        )

    def level(self, name, value, colour):
        """A reference line over the whole width."""
        y = self.y(value)
        self.picture.add(
            f'<line class="level" x1="{self.left:.1f}" y1="{y:.1f}" x2="{self.right:.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="1.2" stroke-dasharray="2 4"><title>{escape(name)}</title></line>'
        )

    def dot(self, name, point, colour, radius=4.0, hollow=False):
        fill = PAPER if hollow else colour
        self.picture.add(
            f'<circle class="dot" cx="{self.x(point[0]):.1f}" cy="{self.y(point[1]):.1f}" r="{radius:g}" fill="{fill}" '
            f'stroke="{colour}" stroke-width="1.8"><title>{escape(name)}</title></circle>'
        )

    def diamond(self, name, point, colour=INK, radius=5.0, within=None):
        """A mark; `within` draws a bar of that height to both sides."""
        x, y, r = self.x(point[0]), self.y(point[1]), radius
        if within:
            ends = [self.y(point[1] + side * within) for side in (1, -1)]
            bar = f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" + "".join(f"M{x - 4:.1f} {end:.1f}h8" for end in ends)
            self.picture.add(f'<path class="bar" d="{bar}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        self.picture.add(
            f'<path class="mark" d="M{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}L{x - r:.1f} {y:.1f}Z" '
            f'fill="{PAPER}" stroke="{colour}" stroke-width="1.8"><title>{escape(name)}</title></path>'
        )

    def end_label(self, text, value, colour, weight="normal"):
        """Asks for a label at the right edge, beside the height of `value`; `place_labels` sets all of them."""
        self.ends.append((text, value, colour, weight))

    def place_labels(self):
        """Sets the labels at the right edge one below the other, each led to from the height that it names."""
        wanted = [min(max(self.y(value), self.top), self.bottom) for _, value, _, _ in self.ends]
        for (text, _, colour, weight), y, place in zip(
            self.ends, wanted, spread(wanted, LABEL_PX, self.top, self.bottom)
        ):
            self.picture.add(
                f'<path d="M{self.right + 3:.1f} {y:.1f}L{self.right + 17:.1f} {place:.1f}" fill="none" '
                f'stroke="{colour}" stroke-opacity="0.6"/>'
            )
            self.picture.text(self.right + 21, place + 4, text, colour=colour, weight=weight)


class Picture:
    """An SVG that grows by appending; it refers to nothing outside itself."""

    def __init__(self, width, height, title, subtitle, description):
        self.width, self.height = width, height
        self.parts, self.clips = [], []
        self.title, self.description = title, description
        self.text(24, 34, title, size=19, weight="bold")
        self.text(24, 55, subtitle, colour=SOFT)

    def add(self, element):
        self.parts.append(element)

    def clip(self, box):
        name = f"panel{len(self.clips) + 1}"
        left, top, right, bottom = box
        # Round ends of lines that lie on the edge are let through.
        self.clips.append(
            f'<clipPath id="{name}"><rect x="{left - 4:.1f}" y="{top:.1f}" width="{right - left + 8:.1f}" '
            f'height="{bottom - top + 4:.1f}"/></clipPath>'
        )
        return name

    def text(self, x, y, text, anchor="start", colour=INK, size=13, weight="normal"):
        """Text with a rim in the colour of the paper, so that a line below it does not cross it out."""
        attributes = f' text-anchor="{anchor}"' if anchor != "start" else ""
        attributes += f' font-weight="{weight}"' if weight != "normal" else ""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{attributes}>{escape(text)}</text>')

    def svg(self):
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
                f'viewBox="0 0 {self.width} {self.height}" role="img" font-family="Helvetica, Arial, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                f"<desc>{escape(self.description)}</desc>",
                "<style>text{paint-order:stroke;stroke:#ffffff;stroke-width:3px;stroke-linejoin:round}</style>",
                f"<defs>{''.join(self.clips)}</defs>",
                f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>',
                *self.parts,
                "</svg>\n",
            ]
        )
