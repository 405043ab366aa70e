"""Every text of every node is there in every language, and English says what the schemas say.

After a text of a node changed, `python tests/test_locales.py` writes the English file anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from likeness.nodes import NODES

ROOT = Path(__file__).parent.parent
LOCALES = ROOT / "locales"
DOCS = ROOT / "web" / "docs"
LANGUAGES = ("en", "ru", "zh")
LETTERS = {"ru": re.compile("[а-яё]", re.IGNORECASE), "zh": re.compile("[\u4e00-\u9fff]")}
"""What a text of that language has at least one of."""

Texts = dict[str, dict[str, Any]]


def schema_texts() -> Texts:
    """The texts of all nodes, as ComfyUI's `nodeDefs.json` arranges them."""
    return {node.GET_SCHEMA().node_id: _texts_of(node) for node in NODES}


def _texts_of(node: Any) -> dict[str, Any]:
    info = node.GET_NODE_INFO_V1()
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, (_, options) in inputs.items()
        },
        "outputs": {
            str(index): {"name": name, "tooltip": tooltip}
            for index, (name, tooltip) in enumerate(outputs)
        },
    }


def read(language: str, file: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def leaves(texts: Any, path: str = "") -> dict[str, str]:
    """Every text by its path: `LikenessFuseLora/inputs/scale/tooltip`."""
    if not isinstance(texts, dict):
        return {path: texts}
    found = {}
    for key, value in texts.items():
        found |= leaves(value, f"{path}/{key}" if path else key)
    return found


languages = pytest.mark.parametrize("language", LANGUAGES)
translations = pytest.mark.parametrize("language", tuple(LETTERS))


def test_each_folder_is_a_language():
    # ComfyUI takes every folder here for one.
    assert {path.name for path in LOCALES.iterdir() if path.is_dir()} == set(LANGUAGES)


def test_english_is_what_the_schemas_say():
    assert read("en", "nodeDefs.json") == schema_texts(), "run: python tests/test_locales.py"


@languages
def test_every_text_is_there_and_no_other(language):
    expected, found = leaves(schema_texts()), leaves(read(language, "nodeDefs.json"))
    assert sorted(set(expected) - set(found)) == [], "missing"
    assert sorted(set(found) - set(expected)) == [], "of no node, input or output"
    assert [path for path, text in found.items() if not text.strip()] == [], "empty"


@languages
def test_every_menu_category_is_there_and_no_other(language):
    categories = {part for node in NODES for part in node.GET_SCHEMA().category.split("/")}
    assert set(read(language, "main.json")["nodeCategories"]) == categories


@translations
def test_texts_are_translated(language):
    english, found = leaves(schema_texts()), leaves(read(language, "nodeDefs.json"))
    prose = {path for path in english if path.endswith(("tooltip", "description"))}
    for path in prose & set(found):
        assert found[path] != english[path], path
        assert LETTERS[language].search(found[path]), path


@translations
def test_a_translation_keeps_values_and_references(language):
    """Quoted values, arXiv ids and file suffixes are the same in every language."""
    kept = re.compile(r"\b\d{4}\.\d{5}\b|'tiny(?:/subject)?'|\.safetensors|\.txt|model_index\.json")
    english, found = leaves(schema_texts()), leaves(read(language, "nodeDefs.json"))
    for path, text in english.items():
        missing = set(kept.findall(text)) - set(kept.findall(found[path]))
        assert not missing, f"{path} lacks {missing}"


@languages
def test_no_text_holds_what_comfyui_would_take_for_a_command(language):
    """The frontend's message format: {interpolation}, @:link, plural | plural."""
    texts = leaves(read(language, "nodeDefs.json")) | leaves(read(language, "main.json"))
    assert [path for path, text in texts.items() if re.search(r"[{}@|]", text)] == []


def test_one_input_has_one_label():
    """An input keeps its label from node to node, unless it means something else there."""
    for language in LETTERS:
        labels: dict[tuple[str, str], set[str]] = {}
        english = schema_texts()
        for node, texts in read(language, "nodeDefs.json").items():
            for name, text in texts["inputs"].items():
                tooltip = english[node]["inputs"][name]["tooltip"]
                labels.setdefault((name, tooltip), set()).add(text["name"])
        assert {key: found for key, found in labels.items() if len(found) > 1} == {}


@translations
def test_a_translated_help_page_explains_every_input_and_output(language):
    pages = sorted(DOCS.glob(f"*/{language}.md"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        node = schema_texts()[page.parent.name]
        names = [*node["inputs"], *(output["name"] for output in node["outputs"].values())]
        assert [name for name in names if f"`{name}`" not in text] == [], page


def write_english() -> None:
    text = json.dumps(schema_texts(), indent=2, ensure_ascii=False)
    (LOCALES / "en" / "nodeDefs.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_english()
