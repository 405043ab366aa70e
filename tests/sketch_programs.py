"""Sketch programs as language models write them, with what must be found in them."""

from __future__ import annotations

HOUSE = r"""Sure! Here is a TikZ sketch of your scene:

```latex
\documentclass{standalone}
\usepackage{tikz}
\begin{document}
\begin{tikzpicture}[scale=0.8]

% Sky
\fill[cyan!20] (0,3) rectangle (12,8);

% Grass
\fill[green!60!black] (0,0) rectangle (12,3);

% House
\draw[fill=brown!60, thick] (1.5,2) rectangle (5.5,5);
\draw[fill=red!70!black, thick] (1,5) -- (3.5,7) -- (6,5) -- cycle; % roof
\draw[fill=brown!80!black] (3,2) rectangle (4,3.8);
\foreach \x in {2,4.4} {
    \draw[fill=yellow!50] (\x,3.8) rectangle ++(0.7,0.7);
    \draw (\x,4.15) -- ++(0.7,0) (\x+0.35,3.8) -- ++(0,0.7);
}

% Tree
\fill[brown!70!black] (8.7,1.8) rectangle (9.3,4);
\foreach \a in {0,60,...,300}
    \fill[green!50!black] ({9+0.9*cos(\a)},{5+0.9*sin(\a)}) circle (0.8);
\fill[green!50!black] (9,5) circle (1);

% Sun
\fill[yellow] (11,7.2) circle (0.6);
\foreach \angle in {0,45,...,315}
    \draw[orange, thick] (11,7.2) ++(\angle:0.7) -- ++(\angle:0.3);
\end{tikzpicture}
\end{document}
```

This sketch shows a house on the left with a tree on the right.
"""

DOG_AND_BICYCLE = r"""
\begin{tikzpicture}
\useasboundingbox (0,0) rectangle (10,10);

% object: a brown dog
\filldraw[fill=brown!70, draw=black] (2.5,2.5) ellipse (1.4 and 0.8);   % body
\filldraw[fill=brown!70] (3.9,3.5) circle [radius=0.6];                  % head

\filldraw[fill=brown!50!black] (4.1,4.0) .. controls (4.6,4.4) and (4.7,3.6) .. (4.3,3.4) -- cycle;
\foreach \x/\h in {1.5/1, 1.9/0.9, 3.0/0.9, 3.4/1}
  \draw[line width=6pt, brown!80!black] (\x,2.1) -- ++(0,-\h);
\draw[line width=4pt, brown!80!black] (1.2,2.8) to[bend left=40] (0.5,3.9);
\fill (4.15,3.6) circle (2pt);

% object: a blue bicycle
\def\r{1.1}
\coordinate (rear) at (6,2.1);
\coordinate (front) at (8.8,2.1);
\draw[very thick, blue] (rear) circle (\r) (front) circle (\r);
\draw[thick, blue] (rear) -- (7.2,2.1) -- (8.3,3.9) -- (6.7,3.9) -- cycle;
\draw[thick, blue] (7.2,2.1) -- (6.6,4.2) (6.3,4.2) -- (6.9,4.2);
\draw[thick, blue] (front) -- (8.2,4.4) -- ++(-0.5,0.1);
\end{tikzpicture}
"""

CUP = r"""
\begin{tikzpicture}[x=1cm,y=1cm,line join=round,>=stealth]
  \definecolor{wood}{RGB}{160,110,60}
  % Draw a wooden table
  \draw[fill=wood, very thick] (-4,0) -- (4,0) -- (5,-1) -- (-5,-1) -- cycle;
  \fill[wood!70!black] (-4.8,-1) rectangle (-4.3,-4) (4.3,-1) rectangle (4.8,-4);

  % Draw a red cup
  \begin{scope}[shift={(0.5,-0.4)}, thick]
    \draw[fill=red] (-0.8,0) -- (-0.9,1.8) arc (180:0:0.9 and 0.25)
      -- (0.8,0) arc (0:-180:0.8 and 0.2);
    \draw[fill=red!60!black] (0,1.8) ellipse [x radius=0.9, y radius=0.25];
    \draw[line width=3pt, red] (0.85,1.4) to[out=0,in=0,looseness=1.6] (0.8,0.5);
  \end{scope}
  \draw[->, dashed] (3,3) -- (1.2,1.5) node[midway, above] {cup};
\end{tikzpicture}
"""

SNOWMAN = r"""
\begin{tikzpicture}
  % ==== Snowman ====
  % with a black hat
  \pgfmathsetmacro{\s}{0.75}
  \filldraw[fill=white] (0,0) circle (1.5);
  \filldraw[fill=white] (0,2.0) circle ({1.5*\s});
  \filldraw[fill=white] (0,3.6) circle ({1.5*\s^2});
  \fill[black] (-0.9,4.2) rectangle (0.9,4.4) (-0.55,4.4) rectangle (0.55,5.4);
  \fill[orange] (0,3.6) -- (0.9,3.5) -- (0,3.45) -- cycle;
  \foreach \y in {1.6,2.0,2.4} \fill (0,\y) circle (0.08);
  \draw[thick, brown] (-1,2.2) -- (-2.2,3) (1,2.2) -- (2.2,3) -- ++(60:.4) (2.2,3) -- +(10:.4);

  % Fir trees
  \newcommand{\fir}[2]{
    \begin{scope}[xshift=#1cm, scale=#2]
      \fill[brown] (-0.15,-1.5) rectangle (0.15,-1);
      \foreach \k in {0,...,2}
        \fill[green!40!black] (-1+0.2*\k,-1+0.8*\k) -- (1-0.2*\k,-1+0.8*\k)
          -- (0,0.3+0.8*\k) -- cycle;
    \end{scope}
  }
  \fir{-4}{1}
  \fir{4.5}{1.2}
\end{tikzpicture}
"""

SAILING = r"""
```tikz
\begin{tikzpicture}[every node/.style={font=\small}]
\tikzset{wave/.style={blue!60, thick, smooth}, hull/.style={fill=brown!80, draw=black}}
\clip (0,0) rectangle (12,8);
% the sea
\fill[blue!40] (0,0) rectangle (14,2.5);
\foreach \y in {0.6,1.2,1.8}
  \draw[wave, domain=0:12, samples=60] plot (\x,{\y+0.15*sin(\x*120)});

% a sailing boat
\path[hull] (4,2.2) -- (8,2.2) .. controls +(0.5,0.5) .. (8.8,3.2) -- (3.4,3.2) -- cycle;
\draw[line width=2pt] (6,3.2) -- (6,7.2);
\shade[left color=white, right color=gray!40] (6.1,3.5) -- (8.4,3.5) -- (6.1,7) -- cycle;

% the moon
\begin{scope}
  \clip (10,6.5) circle (0.9);
  \fill[yellow!80] (10,6.5) circle (0.9);
  \fill[white] (10.5,6.8) circle (0.8);
\end{scope}

% stars
\foreach \p in {(1,7),(2.5,6.2),(8.5,7.5)} {
  \fill[yellow] \p +(90:.2)
    \foreach \a in {126,162,...,414} { -- +(\a:{0.14+0.06*cos(5*(\a-90))}) } -- cycle;
}
\end{tikzpicture}
```
"""

ROOM = r"""
\begin{tikzpicture}[scale=1]
\draw[step=1, gray, very thin] (0,0) grid (8,2);
\begin{scope}[name=a floor lamp]
  \draw[ultra thick] (1,1) -- (1,5);
  % shade
  \draw[fill=yellow!40, rounded corners=2pt] (0.4,5) -- (1.6,5) -- (1.3,6.2) -- (0.7,6.2) -- cycle;
\end{scope}
\begin{scope}[name={a grey sofa, seen from the front}, rotate around={0:(5,2)}]
  \filldraw[fill=gray!50, rounded corners] (3,1) rectangle (7.5,2.4);

  \filldraw[fill=gray!60, rounded corners=8pt] (3.2,2.2) rectangle (7.3,3.8);
\end{scope}
\node[draw, circle, fill=white, minimum size=1.2cm] (clock) at (5.2,5.5) {};
\draw (clock.center) -- ++(90:0.4) (clock) -- ++(0:0.3);
\end{tikzpicture}
"""

PROGRAMS = {
    "house": (HOUSE, ["Sky", "Grass", "House", "Tree", "Sun"]),
    "dog": (DOG_AND_BICYCLE, ["a brown dog", "a blue bicycle"]),
    "cup": (CUP, ["a wooden table", "a red cup"]),
    "snowman": (SNOWMAN, ["Snowman with a black hat", "Fir trees"]),
    "sailing": (SAILING, ["the sea", "a sailing boat", "the moon", "stars"]),
    "room": (ROOM, ["a floor lamp", "a grey sofa, seen from the front"]),
}
