"""Placeholders that do not fit the images are an error that names the sample, both numbers and the cause."""

import pytest
import torch

from llavakit.modeling_llava.image_tokens import check_image_tokens, repeat_views


def test_too_few_placeholders_in_a_sample(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config, images=[1, 1])
    row = batch["input_ids"][1]
    row[(row == model.config.image_token_id).nonzero()[0]] = 5
    with pytest.raises(
        ValueError, match=r"Sample 1 of the batch has 3 image tokens.*4 features.*patch_size.*truncation"
    ):
        model(**batch)


def test_a_surplus_in_one_sample_does_not_make_up_for_a_lack_in_another(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config, images=[1, 1])
    ids = batch["input_ids"]
    ids[0, (ids[0] == model.config.image_token_id).nonzero()[0]] = 5
    ids[1, -1] = model.config.image_token_id  # the sums agree
    with pytest.raises(ValueError, match="Sample 0 of the batch has 3 image tokens"):
        model(**batch)


def test_an_image_too_few(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config, images=[1, 2])
    batch["pixel_values"] = batch["pixel_values"][:2]
    with pytest.raises(ValueError, match=r"Sample 1 of the batch has 8 image tokens.*have 4 features.*2 images"):
        model(**batch)


def test_training_without_the_images(tiny_model, inputs):
    model = tiny_model().train()
    batch = inputs(model.config, images=[0, 1])
    del batch["pixel_values"]
    with pytest.raises(ValueError, match=r"Sample 1 of the batch has 4 image tokens.*have 0 features.*0 images"):
        model(**batch)


def test_an_image_too_many(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config, images=[1, 0])
    batch["pixel_values"] = torch.cat([batch["pixel_values"]] * 2)
    with pytest.raises(ValueError, match=r"pixel_values holds 2 images.*\[4, 0\].*take 1 of them"):
        model(**batch)


def test_generation_reports_it_too(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config, images=[1, 2])
    batch["pixel_values"] = batch["pixel_values"][:2]
    for beams in (1, 2):
        with pytest.raises(ValueError, match="image tokens"):
            model.generate(**batch, max_new_tokens=2, num_beams=beams)


@pytest.mark.parametrize(("tokens", "features"), [([4, 0, 8], [4, 4, 4]), ([0], []), ([9, 5], [4, 5, 5])])
def test_what_fits(tokens, features):
    check_image_tokens(tokens, features)


def test_text_and_embeddings_exclude_each_other(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(**batch, inputs_embeds=model.get_input_embeddings()(batch["input_ids"]))


def test_embeddings_in_place_of_ids(tiny_model, inputs):
    model = tiny_model()
    batch = inputs(model.config)
    ids = batch.pop("input_ids")
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeds, **batch).logits, model(input_ids=ids, **batch).logits)


def test_images_are_repeated_sample_by_sample():
    images = torch.arange(3.0).reshape(3, 1, 1, 1)
    repeated = repeat_views({"pixel_values": images}, torch.tensor([8, 0, 4]), 2)
    assert repeated["pixel_values"].flatten().tolist() == [0, 1, 0, 1, 2, 2]
    assert repeat_views({"pixel_values": images}, torch.tensor([0, 0]), 2)["pixel_values"] is images


def test_views_are_repeated_image_by_image():
    """Three images of 2, 1 and 3 views, the first two of one sample."""
    views = {"pixel_values": torch.arange(6), "feature_places": torch.tensor([[5], [0], [2], [9], [0], [0]])}
    repeated = repeat_views(views, torch.tensor([7, 0, 9]), 2)
    assert repeated["pixel_values"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert repeated["feature_places"][:, 0].tolist() == [5, 0, 2, 5, 0, 2, 9, 0, 0, 9, 0, 0]
