"""A layout of several views and of a number of tokens that depends on the image goes through everything: it is a class and
a line in a table, and nothing else knows of it."""

import copy
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaCollator, LlavaProcessor
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.session import ChatSession
from llavakit.modeling_llava.connectors import CONNECTORS, LinearConnector
from llavakit.modeling_llava.fusion_base import Fusion
from llavakit.modeling_llava.fusions import FUSIONS
from llavakit.modeling_llava.image_features import join_views
from llavakit.processing.image_geometry import Placement
from llavakit.processing.image_layouts import IMAGE_LAYOUTS
from llavakit.processing.image_plan import FEATURE_PLACES, ImageLayout, ImagePlan, Mosaic, View

# Answers end with a token of their own, as in most templates
TEMPLATE = (
    "{% for message in messages %}{% for block in message.content %}"
    "{{ '<image>' if block.type == 'image' else block.text }}{% endfor %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Halves(ImageLayout):
    """A wide picture as its whole and its halves side by side, the features of both halves in rows that end in a line
    break; the top row of a picture twice as wide is left out. Any other picture as one view."""

    line_breaks = True

    def mosaics(self, width, height, view):
        whole = Mosaic((1, 1), view)
        if width <= height:
            return [whole]
        rows, columns = view.grid
        top = 1 if width >= 2 * height else 0  # rows of features that are left out
        return [whole, Mosaic((1, 2), view, kept=(top, 0, rows - top, 2 * columns), line_break=view.spatial)]

    def cut(self, image, view, image_processor):
        width, height = image.size
        if width <= height:
            return [image]
        return [image, image.crop((0, 0, width // 2, height)), image.crop((width // 2, 0, width, height))]

    def placement(self, width, height, view):
        return Placement(view.width, view.height, view.width / width, view.height / height)


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Halves)


@pytest.fixture
def pictures():
    """Of one, three and three views: 4, 14 and 9 tokens."""
    torch.manual_seed(3)
    sizes = [(28, 40), (50, 30), (80, 30)]
    return [Image.fromarray((torch.rand(height, width, 3) * 255).byte().numpy()) for width, height in sizes]


@pytest.fixture
def processor(tiny_tokenizer):
    image_processor = CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False)
    return LlavaProcessor(
        image_processor, copy.deepcopy(tiny_tokenizer), 14, chat_template=TEMPLATE, image_aspect_ratio="halves"
    )


@pytest.fixture
def model(tiny_model, processor):
    model = tiny_model(image_token_index=processor.image_token_id, image_line_break=True)
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            weight.mul_(20)
        model.model.multi_modal_projector.line_break.normal_()
    return model


def messages(*pictures, text="a cat"):
    blocks = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def encode(processor, *conversations, **options):
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left", **options},
    )


def test_tokens_come_from_the_size_alone(processor, pictures):
    sizes = [picture.size for picture in pictures]
    blocks = [{"role": "user", "content": [{"type": "image"}] * 3}]
    encoded = processor.encode_conversation(blocks, add_generation_prompt=True, image_sizes=sizes)
    assert encoded.tokens_of_image == [4, 14, 9]
    assert encoded.input_ids.count(processor.image_token_id) == 27
    assert encoded == processor.encode_conversation(messages(*pictures, text=""), add_generation_prompt=True)
    counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in sizes])
    assert (counted.num_image_tokens, counted.num_image_patches) == ([4, 14, 9], [1, 3, 3])
    with pytest.raises(ValueError, match="image_aspect_ratio='halves' an image takes as many tokens as its size asks"):
        processor.encode_conversation(blocks, add_generation_prompt=True)
    with pytest.raises(ValueError, match="2 image_sizes were given for 3 image blocks"):
        processor.encode_conversation(blocks, add_generation_prompt=True, image_sizes=sizes[:2])


def test_turns_dropped_take_the_tokens_of_their_own_images(processor, pictures):
    one, three, _ = pictures
    whole = [*messages(three), {"role": "assistant", "content": "a dog"}]
    encoded = processor.encode_conversation(whole)
    longer = [*whole, *messages(one, one), {"role": "assistant", "content": "a mat"}]
    assert processor.encode_conversation(longer).tokens_of_image == [14, 4, 4]
    assert processor.encode_conversation(longer, max_length=len(encoded)) == encoded


def test_what_goes_with_pixels_is_a_row_a_view(processor, pictures):
    together = processor.process_images(pictures)
    assert together["pixel_values"].shape == (7, 3, 28, 28)
    assert together["feature_places"].shape == (7, 13) == (7, len(FEATURE_PLACES))
    assert together["feature_places"][:, 0].tolist() == [4, 14, 0, 0, 9, 0, 0]
    apart = [processor.process_images([picture]) for picture in pictures]
    for name, tensor in together.items():
        assert torch.equal(tensor, torch.cat([one[name] for one in apart]))
    called = processor(images=pictures, text="<image> a <image><image>", return_tensors="pt")
    assert set(called) == {"input_ids", "attention_mask", "pixel_values", "feature_places"}
    assert torch.equal(called["feature_places"], together["feature_places"])
    assert (called["input_ids"] == processor.image_token_id).sum() == 27


def test_features_are_joined_as_planned(model, processor, pictures):
    inputs = processor.process_images(pictures)
    with torch.no_grad():
        joined = model.get_image_features(**inputs).pooler_output
        views = model.get_image_features(inputs["pixel_values"]).pooler_output  # each by itself, (4, hidden_size)
    line_break = model.model.multi_modal_projector.line_break.detach()
    assert [len(image) for image in joined] == [4, 14, 9]
    assert torch.equal(joined[0], views[0])
    whole, left, right = views[1:4]
    rows = [torch.cat([left[start : start + 2], right[start : start + 2], line_break[None]]) for start in (0, 2)]
    assert torch.equal(joined[1], torch.cat([whole, *rows]))
    whole, left, right = views[4:]
    assert torch.equal(joined[2], torch.cat([whole, left[2:], right[2:], line_break[None]]))


def test_a_batch_scores_as_its_samples_alone(model, processor, pictures):
    one, three, fewer = pictures
    samples = [messages(one, three, text="a cat sits"), messages(text="a dog"), messages(fewer)]
    batch = encode(processor, *samples)
    with torch.no_grad():
        together = model(**batch).logits
        for index, sample in enumerate(samples):
            alone = model(**encode(processor, sample)).logits
            torch.testing.assert_close(together[index, -alone.shape[1] :], alone[0], rtol=1e-4, atol=1e-4)


def test_rows_are_collated_and_all_parts_learn(model, processor, pictures):
    answers = [{"role": "assistant", "content": "on the mat"}]
    strings = {"role": "user", "content": "<image>a cat"}
    rows = [{"images": [picture], "messages": [strings, *answers]} for picture in pictures]
    batch = LlavaCollator(processor)(rows)
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [4, 14, 9]
    assert batch["feature_places"].shape == (7, 13)
    model.train()(**batch).loss.backward()
    connector = model.model.multi_modal_projector
    assert connector.line_break.grad.abs().sum() > 0 and connector.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_generation_repeats_an_image_whole(model, processor, pictures, options):
    one, three, fewer = pictures
    samples = [messages(one, three), messages(text="a dog"), messages(fewer, one)]
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **options}
    batch = encode(processor, *samples)
    together = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    alone = []
    for sample in samples:
        inputs = encode(processor, sample)
        alone.append(model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(together, torch.cat(alone))


def test_a_batch_laid_by_images_is_the_batch_laid_by_views(model, processor, pictures):
    """As for trl, which shuffles and cuts samples and knows how many images each has, not how many views."""
    one, three, fewer = pictures
    texts = ["<image> a cat <image>", "a dog", "<image>"]
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    by_view = processor(images=[one, three, fewer], text=texts, **options)
    by_image = processor(images=[[one, three], None, [fewer]], text=texts, **options)
    assert by_image["pixel_values"].shape == (3, 3, 3, 28, 28) and by_image["image_position_ids"].shape == (3, 3, 13)
    with torch.no_grad():
        logits = model(**by_view).logits
        assert torch.equal(model(**by_image).logits, logits)
        for sample, images in ((slice(0, 1), slice(0, 2)), (slice(1, 2), slice(2, 2)), (slice(2, 3), slice(2, 3))):
            rows = {name: by_image[name][sample] for name in ("input_ids", "attention_mask")}
            rows |= {name: by_image[name][images] for name in ("pixel_values", "image_position_ids")}
            torch.testing.assert_close(model(**rows).logits, logits[sample], rtol=1e-4, atol=1e-4)
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    assert torch.equal(model.generate(**by_image, **settings), model.generate(**by_view, **settings))
    expanded = model._expand_inputs_for_generation(2, **by_image)[1]
    assert expanded["feature_places"][:, 0].tolist() == [4, 14, 0, 0] * 2 + [9, 0, 0] * 2
    with pytest.raises(ValueError, match=r"the first two, images and their views, must be the same"):
        model(**{**by_image, "pixel_values": by_image["pixel_values"][:2]})


def test_inputs_are_expanded_where_images_are_not_encoded_before(model, processor, pictures):
    """As transformers did before it encoded images ahead of beams."""
    one, three, _ = pictures
    batch = encode(processor, messages(one, three), messages(three))
    ids, expanded = model._expand_inputs_for_generation(2, input_ids=batch.pop("input_ids"), **batch)
    assert expanded["feature_places"][:, 0].tolist() == [4, 14, 0, 0] * 2 + [14, 0, 0] * 2
    with torch.no_grad():
        logits = model(input_ids=ids, **expanded).logits
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])


def test_answers_that_share_images_are_those_of_each_question_alone(model, processor, pictures):
    questions = [
        Question(str(index), prompt=text, images=[picture], max_new_tokens=4)
        for index, (text, picture) in enumerate(
            [(text, picture) for picture in pictures for text in ("a cat", "a dog sits")]
        )
    ]
    together = {answer.id: answer.text for answer in LocalEngine(model, processor).answer(questions)}
    for question in questions:
        [alone] = LocalEngine(model, processor, batch_size=1).answer([question])
        assert alone.error is None and together[question.id] == alone.text
    choices = [
        Question("scored", prompt="a cat", images=[picture], choices=["a dog", "a mat"]) for picture in pictures
    ]
    assert all(answer.error is None and answer.scores for answer in LocalEngine(model, processor).answer(choices))


def test_a_talk_reads_an_image_once(model, processor, pictures):
    session = ChatSession(model, processor)
    session.set_image(pictures[1])
    for index in range(2):
        session.ask("a cat", stream=False, max_new_tokens=3)
        assert session.num_cached_tokens >= 14 * index


def test_the_layout_is_saved_by_name(processor, pictures, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.image_aspect_ratio == "halves"
    for name, tensor in processor.process_images(pictures).items():
        assert torch.equal(tensor, loaded.process_images(pictures)[name])


class Short(Halves):
    def cut(self, image, view, image_processor):
        return super().cut(image, view, image_processor)[:1]


def test_a_layout_that_cuts_otherwise_than_it_plans(processor, pictures, monkeypatch):
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Short)
    with pytest.raises(ValueError, match="Short plans 3 views for an image of 50 x 30 pixels and cuts 1"):
        processor.process_images(pictures)


def test_the_model_checks_what_it_obeys(model, processor, pictures):
    batch = encode(processor, messages(*pictures))
    pixels, places = batch["pixel_values"], batch["feature_places"]

    def refused(match, **changed):
        with pytest.raises(ValueError, match=match):
            model(**{**batch, **changed})

    refused("feature_places has 7 rows, but pixel_values has 6 views", pixel_values=pixels[:-1])
    refused("its first view is missing", pixel_values=pixels[2:], feature_places=places[2:])
    refused(
        "plans 1 x 2 views, but the last image has 1 of them", pixel_values=pixels[:-1], feature_places=places[:-1]
    )
    refused("has 27 image tokens, but its images have 28 features", feature_places=None)
    for row, column, value, match in (
        (2, 4, 3, "was planned for 2 x 3 features of a view, but encoder and connector make 4"),
        (0, 0, 3, "gives image 0 3 tokens, but its views have 4 features that stay"),
        (2, 7, 3, "keeps 3 x 4 features from row 0 and column 0 on, of 2 x 4"),
        (3, 0, 5, "starts an image at view 3, within the views of another"),
        (4, 1, 0, "says nothing about view 4"),
    ):
        changed = places.clone()
        changed[row, column] = value
        refused(match, feature_places=changed)
    model.model.multi_modal_projector.line_break = None
    refused("ends each row of features with a line break, which this model has no embedding for")


def test_features_are_pooled_as_planned():
    """Every number of a mosaic, on features that tell where they are from: 2 x 3 views of 4 x 5 features."""
    view = View(8, 10, 20, (4, 5))
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(15.0), indexing="ij")
    whole = torch.stack([rows, columns], dim=-1)
    views = whole.reshape(2, 4, 3, 5, 2).transpose(1, 2).reshape(6, 20, 2)
    plain = Mosaic((2, 3), view)
    kept = Mosaic((2, 3), view, kept=(1, 2, 6, 12))
    pooled = Mosaic((2, 3), view, kept=(1, 2, 6, 12), pooled=(3, 4), line_break=True)
    plan = ImagePlan((plain, kept, pooled), plain.num_tokens + kept.num_tokens + pooled.num_tokens)
    assert (plan.num_views, plan.num_tokens) == (18, 120 + 72 + 3 * 5)
    [image] = join_views(views.repeat(3, 1, 1), torch.tensor(plan.feature_places()), torch.tensor([-1.0, -1.0]))
    assert torch.equal(image[:120], whole.reshape(-1, 2))
    assert torch.equal(image[120:192], whole[1:7, 2:14].reshape(-1, 2))
    ends = image[192:].reshape(3, 5, 2)
    assert (ends[:, 4] == -1).all()
    # Each of the 3 x 4 is the middle of 2 x 3 features
    assert torch.allclose(ends[:, :4], whole[1:7, 2:14].reshape(3, 2, 4, 3, 2).mean((1, 3)))


class WholeImage(LinearConnector):
    """Two tokens of all views of an image: their sum and their number."""

    of_image = True

    @classmethod
    def num_tokens(cls, num_patches, config):
        return 2

    def forward(self, features, grid=None):
        patches = self.linear(torch.cat([mosaic.flatten(1, 2) for mosaic in features], dim=1))
        return torch.stack([patches.sum(1), torch.full_like(patches[:, 0], patches.shape[1])], dim=1)


def test_a_connector_of_whole_images_takes_as_many_tokens_whatever_the_size(
    tiny_model, processor, pictures, monkeypatch
):
    monkeypatch.setitem(CONNECTORS, "whole", WholeImage)
    model = tiny_model(image_token_index=processor.image_token_id, image_line_break=True, projector_type="whole")
    assert model.model.multi_modal_projector.line_break is None
    processor.image_seq_length, processor.image_tokens_of = 2, "image"
    inputs = processor.process_images(pictures)
    with torch.no_grad():
        together = model.get_image_features(**inputs).pooler_output
        assert [image[1, 0].item() for image in together] == [4, 12, 8]  # the patches that stay
        for picture, image in zip(pictures, together, strict=True):
            [alone] = model.get_image_features(**processor.process_images([picture])).pooler_output
            torch.testing.assert_close(image, alone)
        batch = encode(processor, messages(*pictures), messages(pictures[1]))
        assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [6, 2]
        model(**batch)


def test_options_that_a_layout_or_a_connector_does_not_have(processor, tiny_model):
    with pytest.raises(ValueError, match="names 'rows', which the layout 'halves' does not have: it has no options"):
        LlavaProcessor(
            processor.image_processor,
            processor.tokenizer,
            14,
            image_aspect_ratio="halves",
            image_layout_options={"rows": 2},
        )
    with pytest.raises(ValueError, match="names 'queries', which the connector 'linear' does not have"):
        tiny_model(projector_options={"queries": 2})


def test_views_without_places_are_images():
    views = torch.randn(3, 4, 8)
    assert all(torch.equal(one, other) for one, other in zip(join_views(views, None), views, strict=True))


class Beside(Fusion):
    """One that hands the features to the language model beside the text, here as a bias of its embeddings."""

    def read(self, language_model, connector, inputs, placeholders=None, images=None):
        if images is not None:
            mean = torch.stack([image.mean(0) for image in images]).mean(0)
            inputs = {**inputs, "inputs_embeds": inputs["inputs_embeds"] + mean}
        return language_model(**inputs)


def test_another_fusion_is_a_class_and_a_line(tiny_model, inputs, monkeypatch):
    monkeypatch.setitem(FUSIONS, "beside", Beside())
    model = tiny_model(image_fusion="beside")
    batch = inputs(model.config, images=[1, 2])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mean = torch.stack([image.mean(0) for image in model.get_image_features(batch["pixel_values"]).pooler_output])
        embeds = model.get_input_embeddings()(text.pop("input_ids")) + mean.mean(0)
        torch.testing.assert_close(model(**batch).logits, model(inputs_embeds=embeds, **text).logits)
