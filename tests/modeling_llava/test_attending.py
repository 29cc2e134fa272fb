"""The fusion "attend": gated cross-attention as in Flamingo, masked by the image that a token last passed."""

import copy

import pytest
import torch

from llavakit import LlavaConfig
from llavakit.modeling_llava.connector_base import Connector
from llavakit.modeling_llava.connectors import CONNECTORS
from llavakit.modeling_llava.fusion_attend import decoder_layers
from llavakit.modeling_llava.gated_attention import GatedCrossAttentionBlock
from llavakit.modeling_llava.model_parts import part_of
from llavakit.modeling_llava.read_images import NOWHERE, ReadImages

from .flamingo_reference import attention, feed_forward, norm, scramble

OPTIONS = {"num_latents": 3, "num_layers": 1, "num_heads": 4, "cross_attention_every": 2}
FIELDS = {"projector_type": "perceiver", "image_fusion": "attend", "projector_options": OPTIONS}


@torch.no_grad()
def open_gates(model):
    for layer in model.model.multi_modal_projector.fusion_layers:
        layer.attention_gate.fill_(1.0)
        layer.feed_forward_gate.fill_(0.5)
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.mul_(2)
    return model


@pytest.fixture
def model(tiny_model):
    return open_gates(tiny_model(**FIELDS))


# What a block computes


@torch.no_grad()
def test_the_block_is_that_of_the_paper():
    block = GatedCrossAttentionBlock(24, 16, num_heads=4)
    scramble(block)
    weights = block.state_dict()
    y, images = torch.randn(1, 5, 24), torch.randn(1, 2, 3, 16)
    last = [None, 0, 0, 1, 1]  # the image that each token passed last
    mask = torch.tensor([[[image == number for number in range(2)] for image in last]])
    out = block(y, images, mask)
    for token, image in enumerate(last):
        expected = y[0, token]
        if image is not None:
            query = norm(weights, "norm", expected)[None]
            attended = attention(weights, "attention", query, images[0, image], heads=4)[0]
            expected = expected + weights["attention_gate"].tanh() * attended
        expected = expected + weights["feed_forward_gate"].tanh() * feed_forward(weights, "feed_forward", expected)
        torch.testing.assert_close(out[0, token], expected, rtol=1e-4, atol=1e-4)
    # Without an image the attention adds exactly nothing
    nothing = block(y, images[:, :0], mask[..., :0])
    assert torch.equal(nothing, block(y, images, torch.zeros_like(mask)))
    assert torch.equal(nothing, y + weights["feed_forward_gate"].tanh() * block.feed_forward(y))


def test_the_size_of_flamingo_3b():
    """1.2 billion parameters in 24 blocks (table 1); the language model is 2048 wide, the resampler 1536."""
    text = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = {"model_type": "clip_vision_model", "hidden_size": 1536, "num_attention_heads": 16, "image_size": 224}
    config = LlavaConfig(
        vision_config={**vision, "patch_size": 14},
        text_config=text,
        projector_type="perceiver",
        image_fusion="attend",
        projector_options={"cross_attention_every": 1},
    )
    with torch.device("meta"):
        blocks = CONNECTORS["perceiver"](config).fusion_layers
    assert len(blocks) == 24 and {block.attention.num_heads for block in blocks} == {16}
    assert round(sum(parameter.numel() for parameter in blocks.parameters()) / 1e9, 1) == 1.2


# Which image a token sees


def reference_mask(markers, starts):
    """For each token the number of the image last passed in its own text, or None."""
    seen, last, number = [], None, -1
    for token, (marker, start) in enumerate(zip(markers, starts, strict=True)):
        last = None if start == token else last
        if marker:
            number += 1
            last = number
        seen.append(last)
    return seen


@pytest.mark.parametrize("seed", range(200))
def test_a_token_sees_the_image_that_it_last_passed(seed):
    """Random texts, read at once or part by part, cut back between, several to a row or one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    rows, length = draw(1, 4, 1).item(), draw(2, 12, 1).item()
    placeholders = draw(0, 4, rows, length) == 0
    begins = (draw(0, 4, rows, length) == 0) & torch.tensor(seed % 2 == 0)
    begins[:, 0] = True
    starts = torch.arange(length).where(begins, 0).cummax(-1).values
    number = int(placeholders.sum())
    images = [torch.full((2, 4), float(image)) for image in range(number)]
    read = ReadImages.none(torch.zeros(rows, length, 4))
    if seed % 2:  # part by part; after a part some of it is forgotten, and read again
        at = 0
        while at < length:
            end = min(length, at + draw(1, 5, 1).item())
            part = placeholders[:, at:end]
            before = placeholders[:, :at].sum(-1)
            offsets = placeholders.sum(-1).cumsum(0) - placeholders.sum(-1)
            own = [
                images[int(offsets[row] + before[row]) + k] for row in range(rows) for k in range(int(part[row].sum()))
            ]
            positions = torch.arange(at, end)
            new = (
                ReadImages.of_text(part, positions, torch.stack(own))
                if own
                else ReadImages.none(torch.zeros(rows, 1, 4))
            )
            read = read.followed_by(new, at)
            check(read, positions, starts, placeholders)
            at = end - draw(0, 2, 1).item() * (end - at > 1)
    else:
        positions = torch.arange(length)
        read = ReadImages.of_text(placeholders, positions, torch.stack(images)) if number else read
        check(read, positions, starts, placeholders, packed=True)


def check(read, positions, starts, placeholders, packed=False):
    features, mask = read.seen_from(positions, starts if packed else None)
    first = 0
    for row, markers in enumerate(placeholders.tolist()):
        begins = starts[row].tolist() if packed else [0] * len(markers)
        expected = reference_mask(markers, begins)
        for token, position in enumerate(positions.tolist()):
            seen = features[row, mask[row, token]].unique().tolist()  # the number of an image is its features
            assert seen == ([] if expected[position] is None else [first + expected[position]])
        first += sum(markers)


def test_images_reach_the_text_after_them_alone(model):
    ids = torch.randint(2, 25, (2, 12))
    for row, places in enumerate([(3, 7), (1, 5)]):
        ids[row, list(places)] = model.config.image_token_id
    pixels = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits
        for image, (row, start) in enumerate([(0, 3), (0, 7), (1, 1), (1, 5)]):
            changed = pixels.clone()
            changed[image] += 1
            moved = (model(input_ids=ids, pixel_values=changed).logits - logits).abs().amax(-1) > 0
            expected = torch.zeros_like(moved)
            expected[row, start:] = True
            assert torch.equal(moved, expected)
        # By way of the gate alone
        for block in model.model.multi_modal_projector.fusion_layers:
            block.attention_gate.zero_()
        assert torch.equal(model(input_ids=ids, pixel_values=changed).logits, model(input_ids=ids).logits)


def test_texts_in_a_row_do_not_see_each_others_images(model):
    """As language models tell texts apart in a row: by positions that begin anew, without a mask."""
    image = model.config.image_token_id
    texts = [[5, image, 6, 7], [8, 9, 10], [image, 11, image, 12]]
    pixels = torch.randn(3, 3, 28, 28)
    packed = torch.tensor([[token for text in texts for token in text]])
    positions = torch.tensor([[place for text in texts for place in range(len(text))]])
    with torch.no_grad():
        together = model(input_ids=packed, position_ids=positions, pixel_values=pixels, use_cache=False).logits[0]
        alone = [
            model(input_ids=torch.tensor([text]), pixel_values=views, use_cache=False).logits[0]
            for text, views in zip(texts, (pixels[:1], None, pixels[1:]), strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


# The cache


def test_a_cache_carries_its_images(model):
    image = model.config.image_token_id
    ids = torch.tensor([[5, image, 6, 7, image, 8, 9, 10]] * 2)
    pixels = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=pixels).logits
        first = model(input_ids=ids[:, :3], pixel_values=pixels[::2])
        cache = first.past_key_values
        middle = model(input_ids=ids[:, 3:4], past_key_values=cache).logits
        last = model(input_ids=ids[:, 4:], pixel_values=pixels[1::2], past_key_values=cache).logits
        torch.testing.assert_close(torch.cat([first.logits, middle, last], 1), whole, rtol=1e-4, atol=1e-4)
        # Cut back before the second image, it goes on with the first, however long it grows
        cache.crop(-4)
        text = torch.tensor([[6, 7, 8, 9, 11]] * 2)
        rest = [model(input_ids=text[:, at : at + 1], past_key_values=cache).logits for at in range(5)]
        other = model(input_ids=torch.cat([ids[:, :4], text], 1), pixel_values=pixels[::2]).logits[:, 4:]
        torch.testing.assert_close(torch.cat(rest, 1), other, rtol=1e-4, atol=1e-4)
        # A copy of it, by any means, has them as well
        again = copy.deepcopy(first.past_key_values)
        torch.testing.assert_close(
            model(input_ids=ids[:, :1], past_key_values=again).logits,
            model(input_ids=ids[:, :1], past_key_values=cache).logits,
        )


def test_a_cache_without_its_images_is_refused(model):
    ids = torch.randint(2, 25, (1, 4))
    cache = model.model.language_model(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="holds 4 tokens, and not the images among them"):
        model(input_ids=ids, past_key_values=cache)
    cache = model(input_ids=ids, use_cache=True).past_key_values  # text alone is known to have none
    model(input_ids=ids, past_key_values=cache)
    cache.batch_repeat_interleave(2)
    with pytest.raises(ValueError, match="holds 1 rows of images, and goes on with 2"):
        model(input_ids=ids.repeat(2, 1), past_key_values=cache)


def test_rows_are_repeated_with_their_images():
    read = ReadImages(torch.arange(2.0).reshape(2, 1, 1, 1), torch.tensor([[3], [NOWHERE]]))
    repeated = read.repeat(2)
    assert repeated.places[:, 0].tolist() == [3, 3, NOWHERE, NOWHERE]
    assert repeated.features.flatten().tolist() == [0, 0, 1, 1]


# Generation, as in test_generation.py


def continuation(model, batch, **options):
    # A random model would name images that there are not
    options = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [model.config.image_token_id], **options}
    return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]


def alone(batch, images, sample):
    mask = batch["attention_mask"][sample].bool()
    one = {name: batch[name][sample : sample + 1, mask] for name in ("input_ids", "attention_mask")}
    first = sum(images[:sample])
    return one if not images[sample] else one | {"pixel_values": batch["pixel_values"][first : first + images[sample]]}


@pytest.mark.parametrize("images", [[1, 2], [0, 2, 1], [0, 0]])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"cache_implementation": "static"}]
)
def test_a_batch_says_what_its_samples_say_alone(model, inputs, images, options):
    batch = inputs(model.config, images=images)
    together = continuation(model, batch, **options)
    for sample, said in enumerate(together.split(len(together) // len(images))):
        assert torch.equal(continuation(model, alone(batch, images, sample), **options), said)
    if not options:
        assert torch.equal(continuation(model, batch, use_cache=False), together)
        assert len(together.unique()) > 3


def test_assistants_and_lookup_cut_the_cache_back(model, tiny_model, inputs):
    batch = inputs(model.config, images=[2])
    for name, first in (("input_ids", 5), ("attention_mask", 1)):  # what is looked up follows the images
        batch[name] = torch.cat([batch[name], torch.full((1, 6), first)], dim=1)
    expected = continuation(model, batch)
    torch.manual_seed(1)
    assert torch.equal(continuation(model, batch, assistant_model=open_gates(tiny_model(**FIELDS))), expected)
    assert torch.equal(continuation(model, batch, prompt_lookup_num_tokens=3), expected)


def test_a_static_cache_is_used_anew(model, inputs):
    for seed in range(3):
        torch.manual_seed(seed)
        batch = inputs(model.config, images=[1, 2])
        assert torch.equal(continuation(model, batch, cache_implementation="static"), continuation(model, batch))


@pytest.mark.slow
def test_it_compiles_as_one_graph(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        expected = model(**batch).logits
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(**batch).logits, expected)
    said = continuation(model, batch)
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, backend="eager")  # each step of generation as well
    for _ in range(2):
        assert torch.equal(continuation(model, batch, cache_implementation="static"), said)


# Training


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_step_on_text_alone_touches_every_part_that_learns(model, inputs, stage):
    model.set_stage(stage)
    batch = inputs(model.config, images=[0, 0])
    batch["labels"] = batch["input_ids"]
    expected = model(**batch).logits
    model.train()
    out = model(**batch)
    assert torch.equal(out.logits, expected)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    connector = model.model.multi_modal_projector
    for name, parameter in connector.named_parameters():
        read = name.startswith("fusion_layers") and ("feed_forward" in name)
        assert parameter.grad.any() == read, name


# What it refuses


def test_images_and_tokens_that_do_not_fit(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    pixels = batch["pixel_values"]
    with pytest.raises(ValueError, match="Sample 1 of the batch has 2 image tokens, but the images left .* 1 tokens"):
        model(**{**batch, "pixel_values": pixels[:2]})
    with pytest.raises(ValueError, match="pixel_values holds 4 images, .* take 3 of them"):
        model(**{**batch, "pixel_values": torch.cat([pixels, pixels[:1]])})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (
            {"projector_type": "linear", "projector_options": {}},
            "takes one token for a whole image, and the connector",
        ),
        ({"projector_options": {"cross_attention_every": 0, "num_heads": 4}}, "cross_attention_every=0: give 1"),
        ({"projector_options": {"cross_attention_heads": 5, "num_heads": 4}}, "heads=5, which does not divide the 32"),
        ({"projector_options": {"every": 5}}, r"names 'every', .* of the fusion 'attend' \['cross_attention_every'"),
    ],
)
def test_what_it_cannot_be_built_from(tiny_config, fields, match):
    with pytest.raises(ValueError, match=match):
        tiny_config(**{**FIELDS, **fields})


def test_the_layers_of_a_language_model_are_found_or_it_is_refused(model):
    language_model = model.model.language_model
    assert decoder_layers(language_model) is language_model.layers
    language_model.others = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3))
    with pytest.raises(ValueError, match=r"a LlamaModel has 2 lists of 3 different layers \(layers, others\)"):
        decoder_layers(language_model)
    del language_model.others, language_model.layers
    with pytest.raises(ValueError, match="has 0 lists"):
        decoder_layers(language_model)


def test_a_language_model_that_loses_the_images_is_refused(model, inputs):
    """One that was put in without hooks, or hands keyword arguments to its layers no more."""
    for layer in model.model.language_model.layers:
        layer._forward_pre_hooks.clear()
    with pytest.raises(ValueError, match="by a keyword argument, and a LlamaModel does not hand those on"):
        model(**inputs(model.config))


# Copies


def test_a_copy_reads_with_its_own_blocks(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    other = copy.deepcopy(model)
    with torch.no_grad():
        logits = model(**batch).logits
        for parameter in model.model.multi_modal_projector.fusion_layers.parameters():
            parameter.zero_()
        assert torch.equal(other(**batch).logits, logits)
        assert not torch.equal(model(**batch).logits, logits)


def test_the_blocks_are_part_of_the_connector(model):
    names = [name for name, _ in model.named_parameters() if ".fusion_layers." in name]
    assert names and all(name.startswith("model.multi_modal_projector.fusion_layers.") for name in names)
    assert "GatedCrossAttentionBlock" in model._no_split_modules
    assert isinstance(model.model.multi_modal_projector, Connector)


def test_adapters_read_with_the_blocks_that_they_train(model, inputs):
    peft = pytest.importorskip("peft")
    adapters = peft.LoraConfig(
        target_modules=r".*language_model.*\.q_proj", modules_to_save=["multi_modal_projector"], r=2
    )
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        expected = model(**batch).logits
        wrapped = peft.get_peft_model(model, adapters).eval()
        torch.testing.assert_close(wrapped(**batch).logits, expected)
    learning = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert {part_of(name) for name in learning} == {"connector", "language model"}
    wrapped.train()
    wrapped(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in wrapped.named_parameters()}
    assert all(gradients[name] is not None and gradients[name].any() for name in learning if "fusion_layers" in name)
    assert any("fusion_layers" in name for name in learning)
