"""A video is an image whose views are its frames: features, counts, and batches."""

import copy

import pytest
import torch
import transformers
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaProcessor
from llavakit.checkpoints.building import build_llava
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.session import ChatSession
from llavakit.modeling_llava.image_features import join_views
from llavakit.processing.image_plan import View
from llavakit.processing.layout_tiles import TilesLayout
from llavakit.processing.video_frames import Video, open_video

from .test_layouts import TEMPLATE

SIDE = 56  # 4 x 4 patches, 2 x 2 of them a token


@pytest.fixture
def make_processor(tiny_tokenizer):
    def make(**options):
        image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        return LlavaProcessor(
            image_processor, copy.deepcopy(tiny_tokenizer), 14, chat_template=TEMPLATE, video_frames=4, **options
        )

    return make


@pytest.fixture
def make_model(tiny_model):
    def make(processor, **fields):
        return tiny_model(vision={"image_size": SIDE}, image_token_index=processor.image_token_id, **fields)

    return make


@pytest.fixture
def processor(make_processor):
    return make_processor()


@pytest.fixture
def model(make_model, processor):
    model = make_model(processor)
    with torch.no_grad():  # what is seen is to change the text
        for weight in model.model.multi_modal_projector.parameters():
            weight.mul_(20)
    return model


def messages(*images, text="a cat"):
    blocks = [
        {"type": "image", "image": image} if isinstance(image, Image.Image) else {"type": "video", **image}
        for image in images
    ]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def encode(processor, *conversations, side="left"):
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
    )


# ---- features ----


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (4, 4), (24, 24), (16, 24), (2, 30)])
def test_pooling_by_two_is_the_mean_of_four(rows, columns):
    """Bilinear interpolation to half the size takes each from the middle between four: average pooling with stride 2."""
    plan = TilesLayout().plan_of((5, 4, 3), View(SIDE, SIDE, rows * columns, (rows, columns)), video_pooling=2)
    features = torch.randn(3, rows * columns, 5)
    [joined] = join_views(features, torch.tensor(plan.feature_places()))
    grids = features.reshape(3, rows, columns, 5).permute(0, 3, 1, 2)
    means = torch.nn.functional.avg_pool2d(grids, 2).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(joined, means, rtol=1e-6, atol=1e-6)
    assert len(joined) == plan.num_tokens == 3 * (rows // 2) * (columns // 2)


def next_video(model, **fields):
    """transformers' LLaVA-NeXT-Video with the same weights."""
    config = transformers.LlavaNextVideoConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        image_token_index=model.config.image_token_id,
        video_token_index=model.config.image_token_id - 1,
        projector_hidden_act=model.config.projector_hidden_act,
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        tie_word_embeddings=False,
        **fields,
    )
    theirs = transformers.LlavaNextVideoForConditionalGeneration(config).eval()
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["model.image_newline"], [])
    return theirs


@pytest.mark.parametrize(
    ("act", "fields", "options"),
    [
        # It pools before its connector and we after ours: the same where that is linear, ...
        ("linear", {}, {}),
        # ... and where ours pools before its layers, then images too
        ("gelu", {"projector_options": {"pooled_tokens": 4}}, {"image_seq_length": 4, "image_token_grid": [2, 2]}),
    ],
)
def test_features_and_scores_equal_those_of_llava_next_video(make_processor, make_model, clips, act, fields, options):
    pools_before = bool(fields)
    processor = make_processor(video_pooling=1 if pools_before else 2, **options)
    model = make_model(processor, projector_type="mlp2x_gelu", projector_hidden_act=act, **fields)
    theirs = next_video(model)
    for clip in clips:
        inputs = encode(processor, messages(clip))
        pixels = inputs["pixel_values"]
        with torch.no_grad():
            [ours] = model.get_image_features(pixels, feature_places=inputs["feature_places"]).pooler_output
            expected = theirs.get_video_features(pixels[None]).pooler_output[0]
            assert len(ours) == 4 * len(pixels)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
            logits = model(**inputs).logits
            ids = inputs["input_ids"].masked_fill(
                inputs["input_ids"] == processor.image_token_id, theirs.config.video_token_id
            )
            scores = theirs(
                input_ids=ids, attention_mask=inputs["attention_mask"], pixel_values_videos=pixels[None]
            ).logits
        torch.testing.assert_close(logits, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [56, 70])  # 4 x 4 patches, and 5 x 5, of which 3 x 3 remain
def test_features_equal_those_of_llava_onevision(tiny_model, clips, tiny_tokenizer, side):
    """It pools after its connector, as we do, and ends a video with a line break, which we do not."""
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(image_processor, copy.deepcopy(tiny_tokenizer), 14, chat_template="plain")
    model = tiny_model(vision={"image_size": side}, projector_type="mlp2x_gelu")
    config = transformers.LlavaOnevisionConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    theirs = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    inputs = processor.process_images([clips[0]])
    with torch.no_grad():
        [ours] = model.get_image_features(**inputs).pooler_output
        expected = theirs.get_video_features(inputs["pixel_values"][None]).pooler_output[0, :-1]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


# ---- counts ----


@pytest.mark.parametrize("aspect_ratio", ["crop", "pad", "tiles", "anyres"])
def test_tokens_come_from_the_number_of_frames_alone(make_processor, clips, picture, aspect_ratio):
    processor = make_processor(image_aspect_ratio=aspect_ratio)
    together = processor.process_images([*clips, picture])
    frames = [4, 3, 1]
    for clip, count in zip(clips, frames, strict=True):
        places = [{"role": "user", "content": [{"type": "video"}]}]
        encoded = processor.encode_conversation(places, image_sizes=[(64, 48, count)])
        assert encoded.tokens_of_image == [4 * count]
        assert encoded.tokens_of_image == processor.encode_conversation(messages(clip)).tokens_of_image
    assert together["feature_places"][:, 0].tolist()[:8] == [16, 0, 0, 0, 12, 0, 0, 4]
    apart = [processor.process_images([one]) for one in (*clips, picture)]
    assert torch.equal(together["pixel_values"], torch.cat([one["pixel_values"] for one in apart]))
    assert apart[0]["pixel_values"].shape == (4, 3, SIDE, SIDE)
    opened = open_video(clips[0], 4)
    assert torch.equal(processor.process_images([opened])["pixel_values"], apart[0]["pixel_values"])
    # A frame is seen as an image is that is one view
    if processor.layout.single_view:
        seen = processor.process_images(opened.frames)
        assert torch.equal(seen["pixel_values"], apart[0]["pixel_values"])


def test_user_text_that_says_video_is_text(processor, clips):
    plain = encode(processor, messages(clips[0], text="a <video> a cat"))
    assert (plain["input_ids"] == processor.image_token_id).sum() == 16
    assert "<video>" not in processor.tokenizer.get_vocab()


def test_turns_dropped_take_the_frames_of_their_own_videos(processor, clips):
    whole = [*messages(clips[1]), {"role": "assistant", "content": "a dog"}]
    length = len(processor.encode_conversation(whole))
    longer = [*whole, *messages(clips[0]), {"role": "assistant", "content": "a mat"}]
    assert processor.encode_conversation(longer).tokens_of_image == [12, 16]
    batch = processor.apply_chat_template(
        longer,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"truncation": True, "max_length": length},
    )
    assert len(batch["pixel_values"]) == 3


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["video_frames", "video_pooling"])
def test_budgets_that_cannot_be_are_refused(make_processor, tiny_tokenizer, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: give 1 or more"):
        LlavaProcessor(CLIPImageProcessorPil(), tiny_tokenizer, 14, **{name: value})


def test_a_connector_of_whole_images_makes_its_tokens_of_the_whole_video(make_processor, make_model, clips, picture):
    processor = make_processor(image_seq_length=3, image_token_grid=[4, 4], image_tokens_of="image")
    model = make_model(processor, projector_type="resampler", projector_options={"num_queries": 4, "num_heads": 2})
    processor.image_seq_length = model.config.image_seq_length
    batch = encode(processor, *[messages(one) for one in (*clips, picture)])
    with torch.no_grad():
        features = model.get_image_features(batch["pixel_values"], feature_places=batch["feature_places"])
        assert [len(image) for image in features.pooler_output] == [4] * 4
        assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [4] * 4
        model(**batch)
        # The last frame counts too
        changed = batch["pixel_values"].clone()
        changed[3] = -changed[3]
        again = model.get_image_features(changed, feature_places=batch["feature_places"]).pooler_output
    assert not torch.allclose(again[0], features.pooler_output[0]) and torch.equal(again[1], features.pooler_output[1])


def test_frames_have_the_shape_of_their_video_at_native_resolution(
    vision_checkpoint, language_checkpoint, clips, picture
):
    vision = vision_checkpoint("clip_vision_model", image_size=SIDE)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        vision
    )
    options = {"image_aspect_ratio": "native", "chat_template": "plain", "video_frames": 4}
    model, processor = build_llava(vision, language_checkpoint("llama"), **options)
    plan = processor.plan(64, 48, 4)
    (rows, columns) = plan.mosaics[0].view.grid
    assert rows < columns and plan.num_tokens == 4 * -(-rows // 2) * (-(-columns // 2) + 1)  # a line break ends a row
    together = processor.process_images([clips[0], picture, clips[1]])
    assert together["spatial_shapes"].tolist()[:4] == [[rows, columns]] * 4
    with torch.no_grad():
        features = model.get_image_features(**together).pooler_output
        assert [len(image) for image in features] == [plan.num_tokens, len(features[1]), plan.num_tokens * 3 // 4]
        for image, expected in zip((clips[0], picture, clips[1]), features, strict=True):
            [alone] = model.get_image_features(**processor.process_images([image])).pooler_output
            torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)


# ---- batches ----


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_videos_images_and_text_scores_as_its_samples_alone(model, processor, clips, picture, side):
    samples = [
        messages(clips[0], picture, text="a cat sits"),
        messages(text="a dog"),
        messages(picture),
        messages(picture, clips[1], picture, clips[2]),
    ]
    batch = encode(processor, *samples, side=side)
    with torch.no_grad():
        together = model(**batch).logits
        for index, sample in enumerate(samples):
            alone = model(**encode(processor, sample)).logits[0]
            kept = together[index][batch["attention_mask"][index].bool()]
            torch.testing.assert_close(kept, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_generation_repeats_a_video_whole(model, processor, clips, picture, options):
    samples = [messages(clips[0], picture), messages(text="a dog"), messages(picture, clips[1])]
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **options}
    batch = encode(processor, *samples)
    together = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    alone = []
    for sample in samples:
        inputs = encode(processor, sample)
        alone.append(model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(together, torch.cat(alone))


def test_interleaved_text_and_several_images(model, processor, clips, picture):
    """Images stand where they were put, between texts."""
    other = picture.rotate(180)
    blocks = [
        {"type": "image", "image": picture},
        {"type": "text", "text": "a cat"},
        {"type": "image", "image": other},
    ]
    encoded = encode(processor, [{"role": "user", "content": blocks}])
    is_image = (encoded["input_ids"][0] == processor.image_token_id).int()
    runs = torch.diff(is_image, prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten().tolist()
    assert [end - start for start, end in zip(runs[::2], runs[1::2], strict=True)] == [16, 16]
    between = processor.tokenizer.decode(encoded["input_ids"][0, runs[1] : runs[2]])
    assert between.replace("Ġ", "") == "a cat"  # the tokenizer has no decoder of its own
    swapped = encode(processor, [{"role": "user", "content": blocks[::-1]}])
    assert torch.equal(swapped["input_ids"], encoded["input_ids"])
    with torch.no_grad():
        assert torch.equal(swapped["pixel_values"], encoded["pixel_values"].flip(0))
        assert not torch.allclose(model(**swapped).logits, model(**encoded).logits)


def test_answers_about_videos_and_images_are_those_of_each_question_alone(model, processor, clips, picture):
    sources = [*clips, picture, clips[0]]
    questions = [
        Question(str(index), prompt=text, images=[source] if index % 3 else [source, picture], max_new_tokens=4)
        for index, (text, source) in enumerate((text, source) for source in sources for text in ("a cat", "a dog"))
    ]
    questions.append(Question("text", prompt="a cat", max_new_tokens=4))
    together = {answer.id: answer.text for answer in LocalEngine(model, processor).answer(questions)}
    for question in questions:
        [alone] = LocalEngine(model, processor, batch_size=1).answer([question])
        assert alone.error is None and together[question.id] == alone.text
    assert together["0"] != together["1"] or together["2"] != together["4"]  # what is seen changes the text
    [answer] = LocalEngine(model, processor).answer([Question("bad", prompt="a", images=[{"video": b"no video"}])])
    assert answer.error.startswith("question 'bad': the video of 8 bytes cannot be read as a video")


def test_a_talk_reads_a_video_once(model, processor, clips, picture):
    session = ChatSession(model, processor)
    session.set_image([picture, clips[0]])
    assert isinstance(session.images[1], Video)
    for index in range(2):
        session.ask("a cat", stream=False, max_new_tokens=3)
        assert session.num_cached_tokens >= 32 * index
