"""
Figures of the pages on how it works: ``python docs/figures/draw.py`` writes them beside itself.

They are drawn in plain SVG, so that they stay small and the same wherever they are drawn.
"""

import math
import random
from html import escape
from pathlib import Path

INK, FAINT, PAPER = "#1f2933", "#9aa5b1", "#ffffff"
BLUE, ORANGE, GREEN, RED = "#3b7dd8", "#e8872e", "#3f9d5a", "#c8453b"
PALE_BLUE, PALE_ORANGE, PALE_GREEN, GREY = "#dbe8f8", "#fbe3cc", "#dcefe1", "#eef1f4"


# Marks -----------------------------------------------------------------------------------------------------


def _number(value):
    return f"{value:.1f}".removesuffix(".0")


def rect(x, y, width, height, fill="none", stroke=INK, weight=1.0, dash=""):
    """Draw a rectangle."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    x, y, width, height = map(_number, (x, y, width, height))
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{weight}"{dashed}/>'
    )


def cell(x, y, side, fill):
    """Draw a pixel."""
    return rect(x, y, side, side, fill, PAPER, 0.5)


def line(points, stroke=INK, weight=1.0, dash="", arrow=False):
    """Draw a line through points."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    head = ' marker-end="url(#head)"' if arrow else ""
    path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{weight}"{dashed}{head}/>'


def circle(x, y, radius, fill="none", stroke="none", weight=1.0):
    """Draw a disc or a circle."""
    x, y, radius = map(_number, (x, y, radius))
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="{weight}"/>'


def text(x, y, words, size=13, anchor="start", fill=INK):
    """Write words."""
    return (
        f'<text x="{_number(x)}" y="{_number(y)}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">'
        f"{escape(words)}</text>"
    )


def picture(width, height, *marks):
    """Put marks, and lists of them, on white paper."""
    flat = [part for mark in marks for part in ([mark] if isinstance(mark, str) else mark)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif">',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>',
            *flat,
            "</svg>",
            "",
        ]
    )


# Figures -----------------------------------------------------------------------------------------------------


def halo():
    """Draw a block, the rims that its neighbours copy for it, and the window that it becomes."""
    side, depth, x0, y0 = 70, 14, 30, 46
    marks = []
    for i in range(3):
        for j in range(3):
            middle = i == j == 1
            marks.append(rect(x0 + j * side, y0 + i * side, side, side, PALE_BLUE if middle else GREY, PAPER, 3))
    left, top = x0 + side, y0 + side
    for i, j in ((i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)):
        x = (left - depth, left, left + side)[j]
        y = (top - depth, top, top + side)[i]
        width, height = (side if j == 1 else depth), (side if i == 1 else depth)
        marks.append(rect(x, y, width, height, PALE_ORANGE, ORANGE))
    window, x1, y1 = side + 2 * depth, 340, y0 + side - depth
    marks += [
        rect(left, top, side, side, "none", BLUE, 2),
        text(x0, 30, "each block copies its eight rims"),
        line([(x0 + 3 * side + 10, top + side / 2), (x1 - 12, top + side / 2)], arrow=True),
        rect(x1, y1, window, window, PALE_ORANGE, ORANGE),
        rect(x1 + depth, y1 + depth, side, side, PALE_BLUE, BLUE, 2),
        text(x1 - 8, 30, "a block and the rims around it:"),
        text(x1 - 8, y1 + window + 24, "the window that the"),
        text(x1 - 8, y1 + window + 41, "whole image would give"),
    ]
    return picture(560, 280, *marks)


#: Pixels above the threshold, in four blocks of 6 x 8; letters are what a block by itself can tell apart.
_RIMS = (
    "....aa..|........",
    "...aaaaa|bbb.....",
    "..aa...a|b.......",
    "........|........",
    ".c......|....dd..",
    ".cc.....|...ddd..",
    "--------+--------",
    "eee.....|....ff..",
    "........|........",
    ".....gg.|........",
    "....ggg.|..hh....",
    ".....gg.|..hh....",
    "........|........",
)


def rims():
    """Draw components of blocks, the pairs that touch across borders, and the numbers of the whole image."""
    side, gap, y0 = 13, 5, 44
    colours = dict(zip("abcdefgh", (BLUE, ORANGE, GREEN, RED, "#7b5ea7", "#b08900", "#2a9d9d", "#d16ba5"), strict=True))
    joined = {"b": "a", "e": "c", "f": "d"}
    marks = [text(20, 28, "blocks by themselves"), text(418, 28, "the whole image")]
    firsts: dict = {}
    for shown, x0 in ((False, 20), (True, 418)):
        y = y0
        for row in _RIMS:
            if row.startswith("-"):
                y += gap
                continue
            x = x0
            for letter in row:
                if letter == "|":
                    x += gap
                    continue
                name = joined.get(letter, letter) if shown else letter
                marks.append(cell(x, y, side, colours.get(name, GREY)))
                if shown and name in colours:
                    firsts.setdefault(name, (x, y))
                x += side
            y += side
    for number, (x, y) in enumerate(firsts.values(), start=1):
        marks.append(text(x + side / 2, y + side - 2.5, str(number), 11, "middle", PAPER))
    x, y = 295, 62
    marks += [text(x - 28, 28, "pairs across borders")]
    for n, (one, other) in enumerate(("ab", "ce", "df")):
        at = y + 34 * n
        marks += [
            line([(x, at), (x + 70, at)], INK, 2),
            circle(x, at, 11, colours[one]), circle(x + 70, at, 11, colours[other]),
            text(x, at + 4, one, 12, "middle", PAPER), text(x + 70, at + 4, other, 12, "middle", PAPER),
        ]  # fmt: skip
    for n, name in enumerate("gh"):
        marks += [circle(x + 70 * n, y + 102, 11, colours[name]), text(x + 70 * n, y + 106, name, 12, "middle", PAPER)]
    marks += [
        text(20, 232, "A component that touches no border is complete. Pairs join the others;"),
        text(20, 249, "the first pixel in row order, marked by its number, gives a source its place in the catalogue."),
    ]
    return picture(650, 264, *marks)


def growth():
    """Draw rings around a segment that lies across a border, and their means against the sky."""
    side, x0, y0, n = 12, 20, 44, 18
    segment = {(8, 8), (8, 9), (8, 10), (7, 9), (7, 10), (9, 9)}
    colours = ("#b9551a", "#e8872e", "#f3b274", "#f9dcc0")
    marks = [text(20, 28, "rings of a segment, across a border")]
    for i in range(n):
        for j in range(n + 2):
            square = min((i - y) ** 2 + (j - x) ** 2 for y, x in segment)
            ring = math.ceil(math.sqrt(square))
            fill = BLUE if ring == 0 else colours[ring - 1] if ring <= 4 else GREY
            marks.append(cell(x0 + j * side, y0 + i * side, side, fill))
    border = x0 + 11 * side
    marks.append(line([(border, y0 - 6), (border, y0 + n * side + 6)], INK, 1.5, "5 3"))
    left, right, base, top = 330, 600, 236, 60
    means, counts = (9.0, 4.6, 2.1, 0.62, 0.18, 0.1), (14, 22, 28, 34, 40, 46)
    level = {ring: 7.5 / math.sqrt(count) * 0.45 for ring, count in enumerate(counts, start=1)}

    def at(ring, value):
        return left + 40 * ring, base - 16 * value

    marks += [
        text(left, 28, "mean of a ring above the sky"),
        line([(left, top), (left, base), (right, base)]),
        text(right + 4, base + 18, "ring"),
        line([at(ring, value) for ring, value in level.items()], RED, 1.5, "5 3"),
        text(left + 128, base - 54, "standard deviation of the sky", 12, fill=RED),
        text(left + 128, base - 38, "over the root of n", 12, fill=RED),
    ]
    for ring, mean in enumerate(means, start=1):
        kept = ring <= 4 and mean > level[ring]
        marks += [circle(*at(ring, mean), 5, ORANGE if kept else PAPER, ORANGE if kept else FAINT, 1.5)]
        marks.append(text(at(ring, 0)[0], base + 18, str(ring), 12, "middle"))
    marks.append(text(20, 282, "Ring 5 is the first that could be sky, and the segment takes four."))
    marks.append(text(20, 299, "Sums of rings are exact: the parts of two blocks add up to what one block would have."))
    return picture(640, 314, *marks)


def clipping():
    """Draw counts in cells, and the windows whose values the second pass gathers."""
    left, base, width = 40, 170, 540
    marks = [
        text(40, 26, "first pass: counts in cells"),
        text(40, 222, "second pass: the values in three windows, sums of the rest"),
    ]
    cells = 72
    for k in range(cells):
        at = (k - cells / 2 + 0.5) / 9
        height = 120 * math.exp(-at * at / 2) + 10 * math.exp(-max(at, 0) / 2) * (at > 0)
        x = left + k * width / cells
        window = abs(at) < 0.12 or 2.9 < abs(at) < 3.1
        marks.append(rect(x, base - height, width / cells, height, ORANGE if window else PALE_BLUE, PAPER, 0.5))
    marks.append(line([(left, base), (left + width, base)]))
    for at, name in ((-3, "lower bound"), (0, "median"), (3, "upper bound")):
        x = left + width * (0.5 + at * 9 / cells)
        marks += [line([(x, base), (x, base + 6)]), text(x, base + 20, name, 12, "middle")]
    return picture(620, 240, *marks)


def boxes():
    """Draw the boxes of a sky mesh over the borders of chunks."""
    x0, y0, box, columns, rows = 30, 46, 34, 9, 6
    marks = [text(30, 28, "boxes (thin) and chunks (thick)")]
    cut_x, cut_y = x0 + 4.4 * box, y0 + 2.6 * box
    for i in range(rows):
        for j in range(columns):
            crossing = j == 4 or i == 2
            x, y = x0 + j * box, y0 + i * box
            marks.append(rect(x, y, box, box, PALE_ORANGE if crossing else PALE_BLUE, FAINT, 0.7))
    marks += [
        rect(x0, y0, columns * box, rows * box, "none", INK, 2),
        line([(cut_x, y0), (cut_x, y0 + rows * box)], INK, 2),
        line([(x0, cut_y), (x0 + columns * box, cut_y)], INK, 2),
    ]
    x = x0 + columns * box + 30
    marks += [
        rect(x, 70, 16, 16, PALE_BLUE, FAINT), text(x + 24, 83, "inside a chunk:"),
        text(x + 24, 100, "clipped where it lies"),
        rect(x, 128, 16, 16, PALE_ORANGE, FAINT), text(x + 24, 141, "across a border:"),
        text(x + 24, 158, "good pixels are handed to"), text(x + 24, 175, "the chunk where it begins,"),
        text(x + 24, 192, "sorted, then clipped"),
    ]  # fmt: skip
    return picture(590, 270, *marks)


def one_pass():
    """Draw cutouts over chunks: where each is made, and where parts wait for the last chunk."""
    x0, y0, side = 30, 46, 84
    marks = [text(30, 28, "chunks in the order in which they are read")]
    for i in range(2):
        for j in range(3):
            marks.append(rect(x0 + j * side, y0 + i * side, side, side, GREY, PAPER, 3))
            marks.append(text(x0 + j * side + 8, y0 + i * side + 18, str(3 * i + j + 1), 12, fill=FAINT))
    whole = [(0.3, 0.35), (1.32, 0.3), (1.45, 0.42), (2.4, 1.45), (0.2, 1.3)]
    split = [(0.8, 0.75), (1.85, 1.25)]
    for x, y in whole:
        marks.append(rect(x0 + x * side, y0 + y * side, 30, 30, PALE_BLUE, BLUE, 1.5))
    for x, y in split:
        marks.append(rect(x0 + x * side, y0 + y * side, 30, 30, PALE_ORANGE, ORANGE, 1.5))
    x = x0 + 3 * side + 34
    marks += [
        rect(x, 64, 16, 16, PALE_BLUE, BLUE), text(x + 24, 77, "in one chunk: made and handed on"),
        text(x + 24, 94, "by the task that reads it"),
        rect(x, 122, 16, 16, PALE_ORANGE, ORANGE), text(x + 24, 135, "in several: parts are copied and wait,"),
        text(x + 24, 152, "and are put together in the last chunk"), text(x + 24, 169, "(5 and 6 in this figure)"),
    ]  # fmt: skip
    return picture(610, 232, *marks)


def correlation():
    """Draw how the noise of means over squares exceeds white noise, for an image averaged over 2 x 2 pixels."""
    left, base, right, top = 60, 210, 560, 40

    def at(side, factor):
        return left + 48 * side, base - 80 * (factor - 1)

    # Along each of two axes n means of two neighbours add up to (4 n - 2) / (2 n) times the variance of white noise.
    factors = [(side, (4 * side - 2) / (2 * side)) for side in range(1, 11)]
    marks = [
        text(left, 24, "noise of the mean of n x n pixels, over what their scatter would give"),
        line([(left, top), (left, base), (right, base)]),
        line([at(0.2, 2), at(10.3, 2)], FAINT, 1, "5 3"), text(right + 6, at(0, 2)[1] + 4, "2", 12),
        line([at(0.2, 1), at(10.3, 1)], FAINT, 1, "5 3"), text(right + 6, at(0, 1)[1] + 4, "1", 12),
        line([at(*pair) for pair in factors], BLUE, 2),
        text(left + 150, 96, "every pixel the mean of 2 x 2 of white noise", 12, fill=BLUE),
        text(left + 150, base - 8, "white noise", 12, fill=FAINT),
    ]  # fmt: skip
    for side, factor in factors:
        marks += [circle(*at(side, factor), 4, BLUE), text(at(side, 1)[0], base + 18, str(side), 12, "middle")]
    return picture(600, 240, *marks)


def locus():
    """Draw sizes against magnitudes, with the ridge of the stars and what is taken of it."""
    draw = random.Random(5)
    left, base, right, top = 50, 230, 420, 40

    def at(magnitude, size):
        return left + 46 * (magnitude - 16), base - 52 * (size - 1)

    marks = [
        text(left, 26, "size against magnitude"), line([(left, top), (left, base), (right, base)]),
        text(right, base + 18, "fainter", anchor="end"), text(left - 40, top + 8, "larger", 12),
    ]  # fmt: skip

    def scatter(magnitude):
        return 0.03 + 0.012 * 10 ** (0.2 * (magnitude - 18.5))

    upper, lower = ([at(m / 4, 2 + sign * 3 * scatter(m / 4)) for m in range(66, 90)] for sign in (1, -1))
    for _ in range(170):
        magnitude = 16.5 + 7 * draw.random() ** 0.5
        size = 2.0 + abs(draw.gauss(0, 1)) * 0.9 + 0.12
        marks.append(circle(*at(magnitude, min(size, 4.4)), 2.2, FAINT))
    for _ in range(90):
        magnitude = 16.6 + 6.4 * draw.random()
        size = draw.gauss(2.0, scatter(magnitude))
        marks.append(circle(*at(magnitude, size), 2.6, BLUE if magnitude < 21.6 else "#a9c6ee"))
    for _ in range(8):
        marks.append(circle(*at(16.1 + 0.4 * draw.random(), 2.2 + 0.6 * draw.random()), 2.6, RED))
    faint = at(21.6, 1)[0]
    marks += [
        line(upper, ORANGE, 1.5), line(lower, ORANGE, 1.5), line([(faint, base), (faint, top + 30)], INK, 1, "4 3"),
        circle(450, 70, 4, BLUE), text(462, 75, "stars that are used"),
        circle(450, 98, 4, "#a9c6ee"), text(462, 103, "too faint, or doubtful"),
        circle(450, 126, 4, RED), text(462, 131, "saturated"),
        circle(450, 154, 4, FAINT), text(462, 159, "galaxies"),
        line([(444, 182), (456, 182)], ORANGE, 2), text(462, 187, "three times the scatter"),
    ]  # fmt: skip
    return picture(640, 262, *marks)


def gathered():
    """Draw a segment across a border, gathered in its bounding box, and its children."""
    segment = ("..aa....", ".aaaa.bb", "aaaaaabb", ".aaa.bbb", "......bb")
    titles = {20: "a segment in two blocks", 250: "gathered where it begins", 470: "its children"}
    marks = [text(x, 28, title) for x, title in titles.items()]
    for x0, split, colours in ((20, True, {}), (250, False, {}), (470, False, {"a": BLUE, "b": ORANGE})):
        for i, row in enumerate(segment):
            for j, letter in enumerate(row):
                fill = GREY if letter == "." else colours.get(letter, GREEN)
                x = x0 + j * 16 + (10 if split and j >= 4 else 0)
                marks.append(cell(x, 48 + 16 * i, 16, fill))
    marks += [
        line([(20 + 69, 42), (20 + 69, 134)], INK, 1.5, "5 3"),
        line([(176, 88), (240, 88)], arrow=True), line([(390, 88), (458, 88)], arrow=True),
    ]  # fmt: skip
    return picture(620, 150, *marks)


FIGURES = (halo, rims, growth, clipping, boxes, one_pass, correlation, locus, gathered)


def draw():
    """Give the text of every figure, by the name of its file."""
    return {f"{figure.__name__}.svg": figure() for figure in FIGURES}


if __name__ == "__main__":
    for name, drawn in draw().items():
        (Path(__file__).parent / name).write_text(drawn)
