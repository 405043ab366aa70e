"""Prompts: the syntax of weights, chunks of 77 tokens, and the states that come out of them."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.families.prompts import (
    LARGEST_WEIGHT,
    clip_states,
    is_plain,
    parse,
    t5_states,
)

from .comfyui_process import comfyui_path, comfyui_python
from .conftest import TINY

WORDS = ["a", "red", "blue", "star", "house", "snow", "green", "moon", "on", "the"]
LONG = " ".join(WORDS[index % len(WORDS)] for index in range(150))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TINY / "tokenizer")


@pytest.fixture(scope="module")
def encoder():
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(TINY / "text_encoder", dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("prompt", "stretches"),
    [
        ("", [("", 1)]),
        ("a red star", [("a red star", 1)]),
        ("a (red) star", [("a ", 1), ("red", 1.1), (" star", 1)]),
        ("a (red:1.3) star", [("a ", 1), ("red", 1.3), (" star", 1)]),
        ("(red, blue : 1.5 ), star", [("red, blue ", 1.5), (", star", 1)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("((red:1.3))", [("red", 1.1 * 1.3)]),
        ("(a (b:0.5) c:2)", [("a ", 2), ("b", 1), (" c", 2)]),
        ("[(red:1.1)]", [("red", 1.1 / 1.1)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-.5)", [("red", -0.5)]),
        (r"\(red\) \[x\] \\", [(r"(red) [x] " + "\\", 1)]),
        (r"(\(a\):1.2)", [("(a)", 1.2)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        ("(red:)", [("red:", 1.1)]),
        ("(a:1.3:1.4)", [("a:1.3", 1.4)]),
        ("[a:b:0.5]", [("a:b:0.5", 1 / 1.1)]),
        ("a (red", [("a (red", 1)]),
        ("red) a :) ]", [("red) a :) ]", 1)]),
        ("red:1.3) a", [("red:1.3) a", 1)]),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1)]),
        ("(a [b:1.3) c]", [("a [b", 1.3), (" c]", 1)]),
        ("a BREAK b", [("a BREAK b", 1)]),
        ("back\\slash", [("back\\slash", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_the_syntax(prompt, stretches):
    parsed = parse(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in stretches]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in stretches])


def test_hostile_prompts_take_no_time_and_no_stack():
    assert parse("(" * 100_000 + "a" + ")" * 100_000) == [("a", LARGEST_WEIGHT)]
    crossed = parse("[(" * 50_000 + ")]" * 50_000)  # what is closed last was opened first
    assert [len(text) for text, _ in crossed] == [0]
    assert parse("(" * 100_000) == [("(" * 100_000, 1.0)]
    assert parse("(a:" + "1" * 100_000) == [("(a:" + "1" * 100_000, 1.0)]
    assert parse(f"(a:{'9' * 400}) (b:0)") == [("a", LARGEST_WEIGHT), (" ", 1.0), ("b", 0.0)]
    assert parse(f"((a:{'9' * 400}):0)") == [("a", 0.0)]


SPECIAL = st.text(alphabet="ab ,:.1-()[]\\\n", max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), SPECIAL))
def test_any_text_is_read_and_kept(prompt):
    parsed = parse(prompt)
    text = "".join(part for part, _ in parsed)
    assert all(-LARGEST_WEIGHT <= weight <= LARGEST_WEIGHT for _, weight in parsed)
    remaining = iter(prompt)
    assert all(character in remaining for character in text), "nothing new, nothing out of order"
    marks = "()[]\\:+-. 0123456789\n"
    letters = [character for character in prompt if character not in marks]
    assert [c for c in text if c not in marks] == [c for c in letters if c in text]
    if not set(prompt) & set("()[]\\"):
        assert parsed == [(prompt, 1.0)]


@st.composite
def written(draw, depth=3):
    """A prompt in our syntax, with the stretches that it means."""
    prompt, meaning = "", []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["text", "(", "[", "number"] if depth else ["text"]))
        if kind == "text":
            text = draw(st.text(alphabet="ab (),[]\\é", min_size=1, max_size=6))
            prompt += "".join("\\" + c if c in "()[]\\" else c for c in text)
            meaning.append((text, 1.0))
            continue
        inside, parts = draw(written(depth=depth - 1))
        weight = draw(st.sampled_from([0.5, 1.3, -1.0, 2.0]))
        factor = {"(": 1.1, "[": 1 / 1.1, "number": weight}[kind]
        prompt += {"(": f"({inside})", "[": f"[{inside}]", "number": f"({inside}:{weight})"}[kind]
        meaning += [(text, weight * factor) for text, weight in parts]
    return prompt, meaning


@settings(max_examples=200, deadline=None)
@given(written())
def test_what_was_written_is_read(case):
    prompt, meaning = case
    read = [(character, weight) for text, weight in parse(prompt) for character in text]
    meant = [(character, weight) for text, weight in meaning for character in text]
    assert [character for character, _ in read] == [character for character, _ in meant]
    assert [w for _, w in read] == pytest.approx([w for _, w in meant])


def test_plain_is_what_the_pipeline_can_read_itself(tokenizer):
    assert is_plain(tokenizer, "")
    assert is_plain(tokenizer, "a red star, :) in the snow")
    assert is_plain(tokenizer, " ".join(["red"] * 75))
    assert not is_plain(tokenizer, " ".join(["red"] * 76))
    assert not is_plain(tokenizer, "a (red) star")
    assert not is_plain(tokenizer, r"a \(red\) star")


def own_states(tokenizer, encoder, prompts, **options):
    tokens = tokenizer(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return encoder(tokens.input_ids, **options)


@torch.no_grad()
def test_weight_one_is_the_encoders_own_output(tokenizer, encoder):
    prompts = ["a red star", "", " ".join(["red"] * 75), "(blue:1.0) moon"]
    plain = [*prompts[:3], "blue moon"]
    theirs = own_states(tokenizer, encoder, plain, output_hidden_states=True)
    states, pooled = clip_states(tokenizer, encoder, prompts)
    assert torch.equal(states, theirs.last_hidden_state)
    assert pooled is not None
    assert torch.equal(pooled, theirs.pooler_output)
    penultimate, _ = clip_states(tokenizer, encoder, prompts, layer=-2)
    assert torch.equal(penultimate, theirs.hidden_states[-2])


@torch.no_grad()
def test_a_weight_moves_the_words_tokens_away_from_the_empty_prompt(tokenizer, encoder):
    plain = own_states(tokenizer, encoder, ["a red star"]).last_hidden_state[0]
    empty = own_states(tokenizer, encoder, [""]).last_hidden_state[0]
    states, _ = clip_states(tokenizer, encoder, ["a (red:1.5) star", "a (red:0) star"])
    (red,) = tokenizer("red", add_special_tokens=False).input_ids
    place = tokenizer("a red star").input_ids.index(red)
    others = [index for index in range(77) if index != place]
    torch.testing.assert_close(states[0, others], plain[others])
    torch.testing.assert_close(states[0, place], empty[place] + 1.5 * (plain[place] - empty[place]))
    torch.testing.assert_close(states[1, place], empty[place])


@torch.no_grad()
def test_long_prompts_are_read_in_chunks(tokenizer, encoder):
    words = LONG.split()
    counts = [len(tokenizer(word, add_special_tokens=False).input_ids) for word in words]
    assert counts == [1] * 150, "the test counts words as tokens"
    states, pooled = clip_states(tokenizer, encoder, [LONG, "a red star"])
    assert states.shape == (2, 154, 128)
    pair = [" ".join(words[:75]), " ".join(words[75:]), "a red star", ""]
    own = own_states(tokenizer, encoder, pair)
    assert torch.equal(states[0], own.last_hidden_state[:2].flatten(0, 1))
    assert torch.equal(states[1], own.last_hidden_state[2:].flatten(0, 1))
    assert pooled is not None
    assert torch.equal(pooled, own.pooler_output[[0, 2]])
    one_more, _ = clip_states(tokenizer, encoder, [LONG + " moon"])
    assert one_more.shape == (1, 231, 128)


@torch.no_grad()
def test_a_short_stretch_stays_in_one_chunk(tokenizer, encoder):
    before = " ".join(["snow"] * 73)
    states, _ = clip_states(tokenizer, encoder, [f"{before} (red blue star:1.2)"])
    chunks = [before, "red blue star"]
    own = own_states(tokenizer, encoder, chunks).last_hidden_state
    empty = own_states(tokenizer, encoder, [""]).last_hidden_state[0]
    torch.testing.assert_close(states[0, :77], own[0])
    torch.testing.assert_close(states[0, 78:81], empty[1:4] + 1.2 * (own[1, 1:4] - empty[1:4]))


@torch.no_grad()
def test_equal_prompts_are_read_once_and_come_back_in_order(tokenizer, encoder):
    alone, _ = clip_states(tokenizer, encoder, ["a (red) star", "blue"])
    batch, pooled = clip_states(tokenizer, encoder, ["blue", *["a (red) star"] * 3])
    assert torch.allclose(batch[0], alone[1], atol=1e-5)
    assert torch.equal(batch[1], batch[3])
    assert pooled is not None
    assert pooled.shape == (4, 128)


@torch.no_grad()
def test_half_precision_and_projection(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=840,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=24,
        bos_token_id=838,
        eos_token_id=839,
    )
    model = CLIPTextModelWithProjection(config).eval().to(torch.bfloat16)
    states, pooled = clip_states(tokenizer, model, ["a (red:1.2) star"], layer=-2)
    assert states.dtype == torch.bfloat16
    assert pooled is not None
    assert pooled.shape == (1, 24), "the projected state"
    own = own_states(tokenizer, model, ["a red star"]).text_embeds
    assert torch.equal(pooled, own)


@torch.no_grad()
def test_t5(tokenizer, caplog):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(vocab_size=840, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = T5EncoderModel(config).eval()
    ends = tokenizer("a red star").input_ids[1:]  # a T5 tokenizer has no mark of begin
    ids = torch.tensor([ends + [839] * (20 - len(ends))])
    plain = t5_states(tokenizer, model, ["a red star"], 20)
    assert torch.equal(plain, model(ids)[0])
    weighted = t5_states(tokenizer, model, ["a (red:1.5) star", "a (red:0) star"], 20)
    empty = model(torch.full((1, 20), 839))[0]
    torch.testing.assert_close(weighted[0, 1], empty[0, 1] + 1.5 * (plain[0, 1] - empty[0, 1]))
    torch.testing.assert_close(weighted[1, 1], empty[0, 1])
    torch.testing.assert_close(weighted[0, 2:], plain[0, 2:])
    assert t5_states(tokenizer, model, [LONG], 20).shape == (1, 20, 32)
    assert "150 tokens and 19 are read" in caplog.text


COMFYUI = """
import json, sys
arguments = json.loads(sys.argv.pop())
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
from safetensors.torch import load_file, save_file
from comfy import sd1_clip
config = json.load(open(arguments["encoder"] + "/config.json"))
marks = {"start": 838, "end": 839, "pad": 839}
penultimate = {"layer": "hidden", "layer_idx": -2}
clips = {
    name: sd1_clip.SDClipModel(
        textmodel_json_config=config, special_tokens=marks, dtype=torch.float32,
        layer_norm_hidden_state=False, **options
    )
    for name, options in (("None", {}), ("-2", penultimate))
}
weights = {k: v.float() for k, v in load_file(arguments["encoder"] + "/model.safetensors").items()}
weights = {"text_model." + k.removeprefix("text_model."): v for k, v in weights.items()}
words = weights["text_model.embeddings.token_embedding.weight"]
more = torch.zeros(49408 - len(words), words.shape[1])
weights["text_model.embeddings.token_embedding.weight"] = torch.cat([words, more])
for clip in clips.values():
    missing, unexpected = clip.load_sd(dict(weights))
    assert set(missing) <= {"text_projection.weight"} and not unexpected, (missing, unexpected)
tokenizer = sd1_clip.SDTokenizer(arguments["tokenizer"])
results = {}
with torch.no_grad():
    for number, prompt in enumerate(arguments["prompts"]):
        pairs = tokenizer.tokenize_with_weights(prompt)
        for name, clip in clips.items():
            results[f"{number} {name}"] = clip.encode_token_weights(pairs)[0][0].contiguous()
save_file(results, arguments["result"])
"""


def test_the_states_are_those_of_comfyui(tokenizer, encoder, tmp_path):
    from safetensors.torch import load_file

    path = comfyui_path()
    if path is None:
        pytest.skip("no ComfyUI here: set COMFYUI_PATH to a checkout")
    prompts = [
        "a red star",
        "a (red:1.5) star, (blue) moon (in the snow:0.4)",
        "((red)) (green (moon)) (house",
        r"a \(red\) star (blue:1.2)",
        f"{' '.join(['snow'] * 73)} (red blue star:1.2) house",
        LONG.replace("moon on the", "(moon on the:1.3)"),
    ]
    arguments = {
        "tokenizer": str(TINY / "tokenizer"),
        "encoder": str(TINY / "text_encoder"),
        "prompts": prompts,
        "result": str(tmp_path / "states.safetensors"),
    }
    command = [str(comfyui_python(path)), "-c", COMFYUI, json.dumps(arguments)]
    asked = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr[-2000:]
    theirs = load_file(tmp_path / "states.safetensors")
    for number, prompt in enumerate(prompts):
        for layer in (None, -2):
            with torch.no_grad():
                ours = clip_states(tokenizer, encoder, [prompt], layer)[0][0]
            assert torch.allclose(ours, theirs[f"{number} {layer}"], atol=3e-5, rtol=1e-5), prompt
