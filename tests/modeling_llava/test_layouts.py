"""A layout of several views and of a number of tokens that depends on the image goes through everything: it is a class and
a line in a table, and nothing else knows of it."""

import copy

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaCollator, LlavaProcessor
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.session import ChatSession
from llavakit.modeling_llava.image_features import FUSIONS, join_views
from llavakit.processing.image_layouts import IMAGE_LAYOUTS
from llavakit.processing.image_plan import ImageLayout, ImagePlan

# Answers end with a token of their own, as in most templates
TEMPLATE = (
    "{% for message in messages %}{% for block in message.content %}"
    "{{ '<image>' if block.type == 'image' else block.text }}{% endfor %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


class Halves(ImageLayout):
    """A wide picture as its whole and its halves side by side, the features of both halves in rows that end in a line
    break; the top row of a picture twice as wide is left out. Any other picture as one view."""

    def plan(self, width, height, view):
        side = round(view.num_tokens**0.5)
        if width <= height:
            return ImagePlan(1, view.num_tokens)
        first = 1 if width >= 2 * height else 0  # of the rows of features that stay
        rows = side - first
        places = [list(range(view.num_tokens)), [], []]
        for half in (0, 1):
            for row in range(side):
                for column in range(side):
                    start = view.num_tokens + (row - first) * (2 * side + 1) + half * side
                    places[1 + half].append(start + column if row >= first else -1)
        return ImagePlan(3, view.num_tokens + rows * (2 * side + 1), places)

    def cut(self, image, view, image_processor):
        width, height = image.size
        if width <= height:
            return [image]
        return [image, image.crop((0, 0, width // 2, height)), image.crop((width // 2, 0, width, height))]


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Halves())


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
    model = tiny_model(image_token_index=processor.image_token_id)
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            weight.mul_(20)
    connector = model.model.multi_modal_projector
    connector.line_break = nn.Parameter(torch.randn(model.config.text_config.hidden_size))
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
    assert together["feature_places"].shape == (7, 1 + 4)
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
    assert batch["feature_places"].shape == (7, 5)
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
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Short())
    with pytest.raises(ValueError, match="Short plans 3 views for an image of 50 x 30 pixels and cuts 1"):
        processor.process_images(pictures)


def test_the_model_checks_what_it_obeys(model, processor, pictures):
    batch = encode(processor, messages(*pictures))
    pixels, places = batch["pixel_values"], batch["feature_places"]

    def refused(match, **changed):
        with pytest.raises(ValueError, match=match):
            model(**{**batch, **changed})

    refused("feature_places has 7 rows, but pixel_values has 6 views", pixel_values=pixels[:-1])
    refused("planned for 3 features of a view, but encoder and connector make 4", feature_places=places[:, :-1])
    refused("its first view is missing", pixel_values=pixels[2:], feature_places=places[2:])
    refused("has 27 image tokens, but its images have 28 features", feature_places=None)
    doubled = places.clone()
    doubled[0, 1] = doubled[0, 2]
    refused("puts 4 features at 3 of an image's 4 tokens", feature_places=doubled)
    fewer = places.clone()
    fewer[0, 0] = 3
    refused("puts 4 features at 4 of an image's 3 tokens, the last at 3", feature_places=fewer)
    model.model.multi_modal_projector.line_break = None
    refused("takes 14 tokens, but 12 of its features have a place .* no line_break")


def test_views_without_places_are_images():
    views = torch.randn(3, 4, 8)
    assert all(torch.equal(one, other) for one, other in zip(join_views(views, None), views, strict=True))


def test_a_second_place_of_fusion_is_a_function_and_a_line(tiny_model, inputs, monkeypatch):
    """One that hands the features to the language model beside the text, here as a bias of its embeddings."""

    def beside(inputs_embeds, placeholders, features):
        mean = torch.stack([image.mean(0) for image in features]).mean(0)
        return {"inputs_embeds": inputs_embeds + mean}

    monkeypatch.setitem(FUSIONS, "beside", beside)
    model = tiny_model(image_fusion="beside")
    batch = inputs(model.config, images=[1, 2])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mean = torch.stack([image.mean(0) for image in model.get_image_features(batch["pixel_values"]).pooler_output])
        embeds = model.get_input_embeddings()(text.pop("input_ids")) + mean.mean(0)
        torch.testing.assert_close(model(**batch).logits, model(inputs_embeds=embeds, **text).logits)
