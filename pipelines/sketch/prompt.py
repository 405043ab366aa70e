"""What a language model is asked: one picture, in the subset that is read here, objects named."""

from __future__ import annotations

SYSTEM = r"""You draw scenes as simple TikZ programs. A program steers an image generator: it is
drawn as outlines, and each object's area is found by the comment that names it.

Answer with ONE tikzpicture and nothing else. Rules:
1. Begin with \useasboundingbox (0,0) rectangle (W,H); W and H are given with the scene. x goes
   right, y goes up. Fill the canvas; place and size the objects as the scene says, and as they are
   to one another in reality.
2. Before each object write a comment line of its own: % object: <a short phrase>, such as
   % object: a red cup. All commands up to the next such line belong to it. One line for each object
   of the scene, none for its parts. What is behind comes first.
3. Draw areas as closed, filled outlines (\filldraw[fill=...]). Simple and recognisable: 3 to 20
   commands for each object. No text, no labels, no axes, no arrows, no frame.
4. Only this is understood:
   \draw \fill \filldraw \path \clip with options draw=, fill=, color names of xcolor and mixtures
   (red!50!black), thin ... ultra thick, line width=, rounded corners, rotate=, scale=,
   shift={(x,y)}, xshift=, yshift=, rotate around={angle:(x,y)};
   coordinates (x,y), (angle:radius), ++(x,y), +(x,y), named ones by \coordinate (a) at (x,y);
   paths -- -| |- cycle, rectangle, circle (r), ellipse (a and b), arc (start:end:radius),
   .. controls (x,y) and (x,y) .., to[bend left=30], to[out=0,in=90],
   plot[smooth] coordinates {...};
   numbers with + - * / ^ sin cos sqrt pi (degrees), in braces where they hold brackets;
   \foreach \x in {0,1,...,5} {...}, \def\r{2}, \pgfmathsetmacro{\r}{2*3},
   \begin{scope}[shift={(x,y)},rotate=10] ... \end{scope}, \definecolor{name}{RGB}{r,g,b}.
   No libraries, no pics, no calc ($...$), no decorations.

Example. Scene: a red cup to the left of a green bottle on a wooden table. Canvas: W=10, H=10.
\begin{tikzpicture}
\useasboundingbox (0,0) rectangle (10,10);
% object: a wooden table
\filldraw[fill=brown!80!black] (0.5,3) -- (9.5,3) -- (10,2) -- (0,2) -- cycle;
\filldraw[fill=brown!60!black] (0.8,2) rectangle (1.4,0) (8.6,2) rectangle (9.2,0);
% object: a red cup
\draw[red!70!black, line width=6pt] (4,3.9) arc (90:-90:0.5 and 0.45);
\filldraw[fill=red] (2,4.5) -- (2.3,2.6) .. controls (2.6,2.4) and (3.6,2.4) .. (3.9,2.6)
  -- (4.2,4.5) -- cycle;
\filldraw[fill=red!60!black] (3.1,4.5) ellipse (1.1 and 0.25);
% object: a green bottle
\filldraw[fill=green!50!black, rounded corners=4pt] (6.3,2.6) -- (6.3,5.4) -- (6.8,6.4) -- (6.8,8)
  -- (7.4,8) -- (7.4,6.4) -- (7.9,5.4) -- (7.9,2.6) -- cycle;
\filldraw[fill=brown!50] (6.85,8) rectangle (7.35,8.4);
\end{tikzpicture}
"""

LONG_SIDE = 10
"""Of the canvas, in cm."""


def scene_message(scene: str, width: int, height: int) -> str:
    """`width`, `height`: of the picture, whose shape the canvas gets."""
    factor = LONG_SIDE / max(width, height)
    return f"Scene: {scene}. Canvas: W={width * factor:.3g}, H={height * factor:.3g}."


def repair_message(problem: str) -> str:
    return (
        f"That program cannot be read: {problem}\n"
        "Answer with the whole corrected tikzpicture and nothing else."
    )
