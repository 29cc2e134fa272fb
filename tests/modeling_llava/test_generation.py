"""Generation as GenerationMixin gives it, with images: cache, beams, sampling, assistants, batches."""

import pytest
import torch


@pytest.fixture
def model(tiny_model):
    return tiny_model()


def single(batch, sample, images):
    """One sample of a left-padded batch, alone and without its padding."""
    mask = batch["attention_mask"][sample].bool()
    alone = {name: batch[name][sample : sample + 1, mask] for name in ("input_ids", "attention_mask")}
    first = sum(images[:sample])
    if images[sample]:
        alone["pixel_values"] = batch["pixel_values"][first : first + images[sample]]
    return alone


def continuation(model, batch, **options):
    options = {"max_new_tokens": 10, "do_sample": False, **options}
    return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_cache_changes_nothing(model, inputs, cache):
    batch = inputs(model.config, images=[1, 2])
    expected = continuation(model, batch, use_cache=False)
    assert torch.equal(continuation(model, batch, cache_implementation=cache), expected)
    assert len(expected.unique()) > 3


def test_images_are_encoded_once(model, inputs, monkeypatch):
    calls = []
    tower = model.model.vision_tower
    tower.register_forward_hook(lambda *_: calls.append(1))
    continuation(model, inputs(model.config), num_beams=2)
    assert len(calls) == 1


@pytest.mark.parametrize("images", [[1, 1], [1, 0, 2]])
def test_a_left_padded_batch_equals_single_samples(model, inputs, images):
    batch = inputs(model.config, images=images)
    together = continuation(model, batch)
    with torch.no_grad():
        logits = model(**batch).logits[:, -1]
    for sample in range(len(images)):
        alone = single(batch, sample, images)
        assert torch.equal(continuation(model, alone)[0], together[sample])
        with torch.no_grad():
            torch.testing.assert_close(model(**alone).logits[0, -1], logits[sample], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [[1, 1], [2, 1, 0]])
def test_beams_keep_the_images_of_a_sample_together(model, inputs, images):
    batch = inputs(model.config, images=images)
    together = continuation(model, batch, num_beams=3, num_return_sequences=2)
    for sample in range(len(images)):
        alone = continuation(model, single(batch, sample, images), num_beams=3, num_return_sequences=2)
        assert torch.equal(alone, together[2 * sample : 2 * sample + 2])


def test_a_beam_of_several_images_scores_what_forward_scores(model, inputs):
    batch = inputs(model.config, images=[2])
    out = model.generate(**batch, max_new_tokens=4, num_beams=2, return_dict_in_generate=True, output_scores=True)
    with torch.no_grad():
        whole = {"pixel_values": batch["pixel_values"], "input_ids": out.sequences}
        scores = model(**whole).logits[0, batch["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
    chosen = out.sequences[0, batch["input_ids"].shape[1] :]
    total = scores[torch.arange(len(chosen)), chosen].mean()
    torch.testing.assert_close(out.sequences_scores[0], total, rtol=1e-4, atol=1e-4)


def test_sampling_is_seeded_and_several_samples_differ(model, inputs):
    batch = inputs(model.config, images=[1])
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(continuation(model, batch, do_sample=True, temperature=1.5, num_return_sequences=3))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][0], runs[0][1])


def test_assisted_decoding_gives_the_greedy_text(model, tiny_model, inputs):
    batch = inputs(model.config, images=[1])
    expected = continuation(model, batch)
    torch.manual_seed(1)
    assert torch.equal(continuation(model, batch, assistant_model=tiny_model()), expected)
    assert torch.equal(continuation(model, batch, prompt_lookup_num_tokens=3), expected)


def test_logits_to_keep(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    length = batch["input_ids"].shape[1]
    with torch.no_grad():
        everything = model(**batch).logits

        def kept(logits_to_keep):
            return model(**batch, logits_to_keep=logits_to_keep).logits

        assert everything.shape == (2, length, 128)
        torch.testing.assert_close(kept(0), everything)
        torch.testing.assert_close(kept(3), everything[:, -3:])
        torch.testing.assert_close(kept(torch.tensor([1, 5])), everything[:, [1, 5]])
        positions = torch.tensor([[0, 2], [3, 1]])
        torch.testing.assert_close(kept(positions), torch.stack([everything[0, [0, 2]], everything[1, [3, 1]]]))
        mask = torch.rand(2, length) < 0.5
        torch.testing.assert_close(kept(mask), everything[mask])


def test_attention_implementations_agree(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        expected = model(**batch).logits
        model.set_attn_implementation("eager")
        assert model.model.vision_tower.config._attn_implementation == "eager"
        eager = model(**batch, output_attentions=True, output_hidden_states=True)
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(eager.logits[mask], expected[mask], rtol=1e-4, atol=1e-4)
    assert len(eager.attentions) == 3 and len(eager.hidden_states) == 4
    assert eager.image_hidden_states.shape == (12, 32)


def test_tuples_can_be_had(model, inputs):
    batch = inputs(model.config)
    with torch.no_grad():
        assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).logits)


@pytest.mark.slow
def test_the_forward_compiles_as_one_graph(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        expected = model(**batch).logits  # also installs the hooks that capture hidden states
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)(**batch).logits
    torch.testing.assert_close(compiled, expected)
