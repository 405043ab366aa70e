"""Every feature of the sketch language, drawn on a canvas of 10 by 10 cm and looked at."""

from __future__ import annotations

import pytest
from likeness.pipelines.sketch.picture import sketch

CANVAS = r"\useasboundingbox (0,0) rectangle (10,10);" + "\n"
SCALE = 20  # pixels for each cm


def drawn(program, style="segments", line_width=3):
    return sketch(CANVAS + program, 10 * SCALE, 10 * SCALE, style, line_width)


def pixel(image, x, y):
    return image.getpixel((round(x * SCALE), round((10 - y) * SCALE)))


# program, points in cm that it covers, points that it leaves free
COVERED = {
    "rectangle": (r"\fill (1,1) rectangle (4,3);", [(1.2, 1.2), (3.8, 2.8)], [(4.3, 2), (2, 3.3)]),
    "triangle": (r"\fill (1,1) -- (9,1) -- (5,9) -- cycle;", [(5, 8), (2, 1.5)], [(2, 6), (8, 6)]),
    "fill closes": (r"\fill (1,1) -- (9,1) -- (5,9);", [(5, 5)], [(2, 6)]),
    "draw closed": (r"\draw (1,1) -- (9,1) -- (5,9) -- cycle;", [(5, 5)], [(2, 6)]),
    "draw back to its start": (r"\draw (1,1) -- (9,1) -- (5,9) -- (1,1);", [(5, 5)], [(2, 6)]),
    "draw open": (r"\draw (1,1) -- (9,1) -- (5,9);", [(5, 1), (7, 5)], [(5, 5), (3, 5)]),
    "path draws nothing": (
        r"\fill (0,0) rectangle (1,1); \path (3,3) rectangle (6,6);",
        [(0.5, 0.5)],
        [(4, 4), (3, 3)],
    ),
    "path with fill": (r"\path[fill=red] (3,3) rectangle (6,6);", [(4, 4)], [(2, 2)]),
    "shade": (r"\shade[ball color=red] (5,5) circle (2);", [(5, 5), (6.5, 5)], [(7.5, 5)]),
    "units": (
        r"\fill (10mm,1cm) rectangle (28.4528pt,72.27pt); \fill (1in,5) rectangle ++(1,1);",
        [(3, 5.5)],
        [(2, 5.5), (4, 5.5)],
    ),
    "corner right then up": (r"\draw (1,1) -| (8,8);", [(5, 1), (8, 5)], [(1, 5), (5, 8)]),
    "corner up then right": (r"\draw (1,1) |- (8,8);", [(1, 5), (5, 8)], [(5, 1), (8, 5)]),
    "polar": (r"\draw (0,0) -- (45:10);", [(5, 5)], [(5, 4), (4, 5)]),
    "polar ellipse": (r"\draw (0,0) -- (45:2 and 8);", [(0.7, 2.8)], [(2, 2), (1.6, 6.4)]),
    "relative ++": (r"\draw (1,1) -- ++(4,0) -- ++(0,4);", [(3, 1), (5, 3)], [(1, 3)]),
    "relative +": (r"\draw (1,1) -- +(4,0) -- +(0,4);", [(3, 1), (3, 3), (1.5, 4.5)], [(5, 3)]),
    "named": (
        r"\coordinate (a b) at (2,2); \coordinate (c) at (8,2); \draw (a b) -- (c);",
        [(5, 2)],
        [(5, 3)],
    ),
    "named in a path": (
        r"\draw (2,2) coordinate (a) -- (8,2); \draw (a) -- (2,8);",
        [(5, 2), (2, 5)],
        [(5, 5)],
    ),
    "crossing of two names": (
        r"\coordinate (a) at (2,3); \coordinate (b) at (8,7); \draw (a |- b) -- (a -| b);",
        [(2, 7), (5, 5), (8, 3)],
        [(2, 3), (8, 7)],
    ),
    "circle": (r"\fill (5,5) circle (2);", [(5, 5), (6.8, 5), (5, 3.2)], [(7.2, 5), (6.7, 6.7)]),
    "circle in pt": (r"\fill (5,5) circle (28.45pt);", [(5.9, 5)], [(6.2, 5)]),
    "circle with an option": (r"\fill (5,5) circle [radius=2];", [(6.8, 5)], [(7.2, 5)]),
    "radius of the path": (r"\fill[radius=2] (5,5) circle;", [(6.8, 5)], [(7.2, 5)]),
    "ellipse": (r"\fill (5,5) ellipse (3 and 1);", [(7.8, 5), (5, 5.8)], [(5, 6.3), (8.3, 5)]),
    "ellipse with options": (
        r"\fill (5,5) circle [x radius=3, y radius=1, rotate=90];",
        [(5, 7.8), (5.8, 5)],
        [(7, 5)],
    ),
    "arc": (r"\draw (8,5) arc (0:180:3);", [(5, 8), (2, 5)], [(5, 2), (5, 5)]),
    "arc of an ellipse": (r"\draw (8,5) arc (0:-180:3 and 1);", [(5, 4)], [(5, 6), (5, 2)]),
    "arc with options": (
        r"\draw (8,5) arc [start angle=0, delta angle=90, radius=3];",
        [(5, 8)],
        [(2, 5)],
    ),
    "pie": (r"\fill (5,5) -- (8,5) arc (0:90:3) -- cycle;", [(6, 6)], [(4, 4), (4, 6)]),
    "curve": (r"\draw (1,1) .. controls (1,9) and (9,9) .. (9,1);", [(5, 7)], [(5, 1), (5, 8)]),
    "curve with one control": (r"\draw (1,1) .. controls (5,9) .. (9,1);", [(5, 7)], [(5, 1)]),
    "curve with relative controls": (
        r"\draw (1,1) .. controls +(0,8) and +(0,8) .. (9,1);",
        [(5, 7)],
        [(5, 1)],
    ),
    "closed curve": (
        r"\fill (5,1) .. controls (9,5) and (9,9) .. (5,9) .. controls (1,9) and "
        r"(1,5) .. cycle;",
        [(5, 5), (7, 7)],
        [(1.5, 2), (8.5, 2)],
    ),
    "to": (r"\draw (1,5) to (9,5);", [(5, 5)], [(5, 6)]),
    "bend left": (r"\draw (1,5) to[bend left=60] (9,5);", [(5, 7.04)], [(5, 5), (5, 3)]),
    "bend right": (r"\draw (1,5) to[bend right=60] (9,5);", [(5, 2.96)], [(5, 5), (5, 7)]),
    "out and in": (r"\draw (1,1) to[out=90,in=90] (9,1);", [(5, 3.35)], [(5, 1)]),
    "grid": (r"\draw (0,0) grid (4,4);", [(2, 2.5), (2.5, 2)], [(2.5, 2.5), (5, 2)]),
    "grid with a step": (r"\draw[step=2] (0,0) grid (4,4);", [(2, 1)], [(1, 1.5), (3, 1)]),
    "sine": (r"\draw (1,5) sin (3,8) cos (5,5);", [(3, 8), (2, 7.12)], [(2, 6), (4, 6)]),
    "plot": (r"\draw plot coordinates {(1,1) (5,5) (9,1)};", [(3, 3), (7, 3)], [(5, 1)]),
    "smooth plot": (r"\draw plot[smooth] coordinates {(1,1) (5,5) (9,1)};", [(5, 5)], [(5, 1)]),
    "smooth circle": (
        r"\fill plot[smooth cycle, tension=1] coordinates {(2,5) (5,8) (8,5) (5,2)};",
        [(7, 7), (5, 5)],
        [(8, 8)],
    ),
    "plotted function": (
        r"\draw[domain=0:360, samples=40] plot ({\x/36},{5+3*sin(\x)});",
        [(2.5, 8), (7.5, 2)],
        [(2.5, 2), (5, 7)],
    ),
    "plot in radians": (
        r"\draw plot[domain=0:3.14159,variable=\t] (\t,{5*sin(\t r)});",
        [(1.57, 5)],
        [(1.57, 3)],
    ),
    "plot of a square": (r"\draw plot[domain=-2:2] (\x+5,\x^2);", [(3.1, 3.6), (5, 0.1)], [(5, 4)]),
    "line to a plot": (r"\draw (1,9) -- plot coordinates {(1,1) (9,1)};", [(1, 5)], [(5, 5)]),
    "expression": (
        r"\fill ({2*(1+1)-sqrt(4)/2},{3+cos(60)*2}) rectangle ++(2^2,-1);",
        [(3.2, 3.5), (6.8, 3.5)],
        [(2.8, 3.5), (7.2, 3.5)],
    ),
    "loop": (
        r"\foreach \x in {1,3,...,9} \fill (\x,5) circle (0.4);",
        [(1, 5), (5, 5), (9, 5)],
        [(2, 5), (8, 5)],
    ),
    "loop downwards": (
        r"\foreach \x in {5,...,3} {\fill (\x,5) circle (0.4);}",
        [(5, 5), (3, 5)],
        [(2, 5), (6, 5)],
    ),
    "loop over pairs": (
        r"\foreach \x/\y in {2/2,4/6} {\fill (\x,\y) circle (0.4);}",
        [(2, 2), (4, 6)],
        [(2, 6), (4, 4)],
    ),
    "loop over points": (
        r"\foreach \p in {(2,2),(4,6)} \fill \p circle (0.4);",
        [(2, 2), (4, 6)],
        [(4, 2)],
    ),
    "loops in one another": (
        r"\foreach \x in {1,2} \foreach \y in {4,8} {\fill (2*\x,\y) circle (.4);}",
        [(2, 4), (4, 8), (2, 8)],
        [(3, 4), (2, 6)],
    ),
    "loop in a path": (
        r"\draw (1,1) \foreach \x in {3,5,7} { -- (\x,\x) };",
        [(4, 4), (6, 6)],
        [(8, 8)],
    ),
    "loop that counts": (
        r"\foreach \w [count=\i from 2] in {a,b} {\fill (\i,\i) circle (.3);}",
        [(2, 2), (3, 3)],
        [(1, 1)],
    ),
    "loop that computes": (
        r"\foreach \x [evaluate=\x as \y using 2*\x+1] in {1,3} {\fill (\x,\y) circle (.3);}",
        [(1, 3), (3, 7)],
        [(1, 1)],
    ),
    "def": (r"\def\r{2}\fill (5,5) circle (\r);", [(6.8, 5)], [(7.2, 5)]),
    "macro of a number": (
        r"\pgfmathsetmacro{\r}{4/2}\fill (5,5) circle (\r cm);",
        [(6.8, 5)],
        [(7.2, 5)],
    ),
    "macro with arguments": (
        r"\newcommand{\dot}[2]{\fill (#1,#2) circle (.5);}\dot{2}{3}\dot{7}{8}",
        [(2, 3), (7, 8)],
        [(3, 2)],
    ),
    "scope": (
        r"\begin{scope}[shift={(4,4)}]\fill (0,0) rectangle (1,1);\end{scope}"
        r"\fill (0,0) rectangle (1,1);",
        [(4.5, 4.5), (0.5, 0.5)],
        [(3, 3)],
    ),
    "scale then shift": (
        r"\fill[scale=2,shift={(1,1)}] (0,0) rectangle (1,1);",
        [(2.2, 2.2), (3.8, 3.8)],
        [(1.5, 1.5), (4.3, 4.3)],
    ),
    "shift then scale": (
        r"\fill[shift={(1,1)},scale=2] (0,0) rectangle (1,1);",
        [(1.2, 1.2), (2.8, 2.8)],
        [(3.3, 3.3)],
    ),
    "xshift": (
        r"\fill[xshift=3cm,yshift=28.45pt] (0,0) rectangle (1,1);",
        [(3.5, 1.5)],
        [(0.5, 0.5)],
    ),
    "rotate": (r"\fill[rotate=90] (2,-6) rectangle (4,-2);", [(4, 3)], [(7, 3)]),
    "rotate around": (
        r"\fill[rotate around={90:(5,5)}] (5,4.5) rectangle (9,5.5);",
        [(5, 8)],
        [(8, 5)],
    ),
    "mirrored": (
        r"\fill[yscale=-1,shift={(0,-10)}] (0,0) rectangle (1,3);",
        [(0.5, 8)],
        [(0.5, 5)],
    ),
    "slant": (r"\fill[xslant=1] (0,0) rectangle (1,4);", [(4, 3.5)], [(0.5, 3.5)]),
    "units of the axes": (r"\fill[x=2cm,y=5mm] (1,2) rectangle (2,4);", [(3, 1.5)], [(1.5, 3)]),
    "name before a shift": (
        r"\coordinate (a) at (2,2);\fill[shift={(5,5)}] (a) rectangle +(1,1);",
        [(2.5, 2.5)],
        [(7.5, 7.5)],
    ),
    "rounded corners": (
        r"\fill[rounded corners=1cm] (2,2) rectangle (8,8);",
        [(5, 2.2), (2.5, 2.5)],
        [(2.15, 2.15)],
    ),
    "sharp corners": (
        r"\fill[rounded corners=1cm,sharp corners] (2,2) rectangle (8,8);",
        [(2.15, 2.15)],
        [(1.8, 1.8)],
    ),
    "even odd": (r"\fill[even odd rule] (5,5) circle (3) (5,5) circle (1);", [(7, 5)], [(5, 5)]),
    "nonzero": (r"\fill (5,5) circle (3) (5,5) circle (1);", [(7, 5), (5, 5)], [(9, 5)]),
    "thick line": (r"\draw[line width=28.45pt] (1,5) -- (9,5);", [(5, 5.4), (5, 4.6)], [(5, 5.7)]),
    "dashed is whole": (
        r"\draw[dashed] (1,5) -- (9,5);",
        [(x / 4, 5) for x in range(5, 35)],
        [(5, 6)],
    ),
    "clip": (
        r"\begin{scope}\clip (5,5) circle (2);\fill (0,5) rectangle (10,10);\end{scope}"
        r"\fill (0,0) rectangle (1,1);",
        [(5, 6.5), (0.5, 0.5)],
        [(8, 8), (5, 4)],
    ),
    "node with a frame": (r"\node[draw,minimum size=2cm] at (5,5) {};", [(5.8, 5.8)], [(6.3, 5)]),
    "round node": (
        r"\node[circle,fill=red,minimum size=2cm] (n) at (5,5) {};\draw (n.east) -- (9,5);",
        [(5, 5.8), (8, 5)],
        [(5.9, 5.9)],
    ),
    "node beside another": (
        r"\node[draw] (a) at (2,5) {};\node[draw,minimum size=1cm,"
        r"right=2cm of a] {};",
        [(5, 5)],
        [(3, 5)],
    ),
    "node in a line": (
        r"\draw (1,5) -- node[draw,circle,minimum size=2cm] {} (9,5);",
        [(5, 5.8), (2, 5)],
        [(3, 5.8)],
    ),
    "text is left out": (r"\draw (1,1) -- (9,1); \node at (5,5) {Hello};", [(5, 1)], [(5, 5)]),
    "style": (
        r"\tikzset{leaf/.style={line width=1cm}}\draw[leaf] (1,5) -- (9,5);",
        [(5, 5.4)],
        [(5, 5.7)],
    ),
    "numbered names": (
        r"\foreach \i in {1, 2} {\coordinate (p\i) at (2,4*\i);} \draw (p1) -- (p2);",
        [(2, 6)],
        [(3, 6)],
    ),
    "set for all": (
        r"\tikzset{>=stealth, line width=1cm}\draw (1,5) -- (9,5);",
        [(5, 5.4)],
        [(5, 5.7)],
    ),
    "two parts": (r"\fill (1,1) rectangle (3,3) (6,6) circle (1);", [(2, 2), (6, 6)], [(4, 4)]),
    "path options inside": (r"\draw (1,5) [line width=1cm] -- (9,5);", [(5, 5.4)], [(5, 5.7)]),
}


@pytest.mark.parametrize(("program", "covered", "free"), COVERED.values(), ids=COVERED)
def test_it_covers_what_tikz_would(program, covered, free):
    (everything,) = drawn(program).objects
    for x, y in covered:
        assert pixel(everything.mask, x, y) > 127, f"nothing at ({x},{y})"
    for x, y in free:
        assert pixel(everything.mask, x, y) < 128, f"something at ({x},{y})"
    left, top, right, bottom = everything.box
    assert everything.mask.crop(everything.box).getbbox() == (0, 0, right - left, bottom - top)
