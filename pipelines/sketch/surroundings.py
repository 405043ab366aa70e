"""What stands around a picture in documents and in the answers of language models."""

from __future__ import annotations

import re

from .options import listed

SKIPPED = listed(
    "documentclass,usepackage,usetikzlibrary,pagestyle,thispagestyle,caption,label,centering,"
    "noindent,maketitle,title,author,date,tikz,newpage,clearpage,vspace,hspace,normalsize,small,"
    "pgfplotsset,standaloneconfig,PreviewEnvironment,sffamily,bfseries,footnotesize,large"
)
"""What surrounds pictures in documents: read over with its arguments."""
SURROUNDINGS = frozenset({"document", "figure", "center", "preview"})
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_THOUGHT = "</think>"
"""Models that think aloud put this between their thoughts and their answer."""


def without_prose(program: str) -> str:
    """The program alone, out of an answer with words and Markdown fences around it; lines keep
    their numbers.

    Raises:
        ValueError: it holds several pictures.
    """
    program = program.replace("\r\n", "\n").replace("\r", "\n")
    behind = program.rfind(_THOUGHT)
    if behind >= 0:
        program = _blank(program[:behind]) + program[behind + len(_THOUGHT) :]
    fences = list(_FENCE.finditer(program))
    for opening, closing in zip(fences[::2], [*fences[1::2], None], strict=False):
        end = closing.start() if closing else len(program)
        if "\\" in program[opening.end() : end]:
            program = _blank(program[: opening.end()]) + program[opening.end() : end]
            break
    count = len(re.findall(r"\\begin\s*\{tikzpicture\}", program))
    if count > 1:
        raise ValueError(f"the sketch holds {count} pictures (tikzpicture); keep one")
    behind = re.search(r"\\end\s*\{tikzpicture\}", program)
    if behind:
        program = program[: behind.end()]
    if count:  # words before the first command
        first = re.search(r"^[ \t]*[\\%]", program, re.MULTILINE)
        if first:
            program = _blank(program[: first.start()]) + program[first.start() :]
    return program


def _blank(text: str) -> str:
    return "\n" * text.count("\n")
