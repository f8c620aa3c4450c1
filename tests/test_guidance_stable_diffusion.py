"""What a step of a Stable Diffusion guidance computes, from the paper's formula and the parts of diffusers."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from guidance.diffusion import Told, picture_grid, resize
from guidance.prompts import ViewOptions
from guidance.rules import RULES
from guidance.types import GuidanceBatch
from sd_case import VAES, OriginalKnown, batch, load, random_latents
from tiny_diffusion import IMAGE, LATENT, MAX_TOKENS, save_pipeline


@pytest.fixture(scope="module", params=VAES)
def folder(request, tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp(request.param), vae=request.param)


def test_gradient_is_the_weighted_difference_of_predicted_and_true_noise(folder, device):
    """The whole step from the paper's formula, with the parts of diffusers and none of ours."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    latents = random_latents(device)
    load(folder, device)(batch(latents=latents, t_range=(0.2, 0.6), guidance_scale=7.5)).loss.backward()

    tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder").to(device)
    unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet").to(device)
    alphas = DDIMScheduler.from_pretrained(f"{folder}/scheduler").alphas_cumprod.to(device)
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(200, 601, (2,), generator=generator).to(device)
    noise = torch.randn(2, 4, LATENT, LATENT, generator=generator).to(device)

    def embed(text):
        ids = tokenizer(text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        return text_encoder(ids.to(device)).last_hidden_state

    front, side, back = (embed(f"a green frog, {view} view") for view in ("front", "side", "back"))
    # Azimuth 20: front falls from 1 at 0 to 0 at 60. Azimuth -140: back falls from 1 at 180 to 0 at 120.
    positive = torch.cat([2 / 3 * front + 1 / 3 * side, 1 / 3 * back + 2 / 3 * side])
    a = alphas[t].view(2, 1, 1, 1)
    with torch.no_grad():
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        e = [unet(noisy, t, encoder_hidden_states=c).sample for c in (embed("").expand(2, -1, -1), positive)]
        expected = (1 - a) * (e[0] + 7.5 * (e[1] - e[0]) - noise) / 2
    assert_close(latents.grad, expected, atol=1e-5, rtol=1e-4)  # another batch size sums in another order


def test_gradient_reaches_the_images_through_the_encoder(folder, device):
    guidance, given = load(folder, device), batch(device)
    guidance(given).loss.backward()
    latents = random_latents(device)  # any latents: the formula above has fixed their gradient
    vae, images = guidance.vae, given.images.detach().requires_grad_()
    small = torch.nn.functional.interpolate(images, (IMAGE, IMAGE), mode="bilinear", antialias=True)
    encoded = vae.encode(2 * small - 1)
    mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    latents = (mean * vae.config.scaling_factor).detach().requires_grad_()
    guidance(batch(latents=latents)).loss.backward()
    (mean * vae.config.scaling_factor).backward(latents.grad)
    assert_close(given.images.grad, images.grad)
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_the_same_model_in_another_prediction_type_gives_the_same_gradient(prior, prediction_type):
    gradients = []
    for kind in ("epsilon", prediction_type):
        guidance = load(prior)
        guidance.unet = OriginalKnown(torch.ones(2, 4, LATENT, LATENT), guidance.alphas_cumprod, kind)
        guidance.prediction_type = kind
        latents = random_latents()
        guidance(batch(latents=latents, guidance_scale=3)).loss.backward()
        gradients.append(latents.grad)
    assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)  # float32 with division by sqrt(1 - alpha_bar)


def test_the_prediction_type_is_read_from_the_scheduler(tmp_path):
    assert load(save_pipeline(tmp_path, prediction_type="v_prediction")).prediction_type == "v_prediction"


def test_the_model_is_frozen(folder, device):
    guidance = load(folder, device, views=ViewOptions(perpneg=True))
    models = (guidance.unet, guidance.vae)
    before = [p.clone() for model in models for p in model.parameters()]
    images = batch(device).images.detach().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=0.1)
    for seed in range(2):
        given = GuidanceBatch(
            images=images,
            azimuth=torch.zeros(2),
            elevation=torch.zeros(2),
            generator=torch.Generator().manual_seed(seed),
        )
        guidance(given).loss.backward()
        optimizer.step()
    parameters = [p for model in models for p in model.parameters()]
    assert before and all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in parameters)
    assert not any(module.training for model in models for module in model.modules())


def test_the_text_encoder_and_the_decoder_are_not_kept(folder):
    guidance = load(folder)
    assert guidance.vae.decoder is None
    assert not hasattr(guidance, "text_encoder") and not hasattr(guidance, "tokenizer")


def test_the_same_generator_gives_the_same_step_bit_for_bit(folder):
    runs = []
    for seed in (3, 3, 4):
        guidance, given = load(folder), batch(seed=seed)
        torch.rand(seed)  # the global generator has no say
        guidance(given).loss.backward()
        runs.append(given.images.grad)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_all_that_is_random_is_drawn_before_the_models_have_work(prior):
    guidance, given, states = load(prior), batch(), []
    encode = guidance.encode
    guidance.encode = lambda images: states.append(given.generator.get_state()) or encode(images)
    guidance(given)
    assert torch.equal(states[0], given.generator.get_state())
    assert not torch.equal(states[0], batch().generator.get_state())


def test_timesteps_stay_in_the_range_and_reach_both_ends(prior):
    guidance = load(prior)
    given = batch(t_range=(0.4, 0.402))
    drawn = torch.cat([guidance._draw_timesteps(given) for _ in range(50)])
    assert set(drawn.tolist()) == {400, 401, 402}


def test_dreamtime_gives_all_views_one_timestep_that_falls(prior):
    guidance, found = load(prior), []
    for share in (0.0, 0.5, 1.0):
        guidance.alphas_cumprod = guidance.alphas_cumprod.to("meta")  # where nothing can be read
        drawn = guidance._draw_timesteps(batch(t_range=(0.1, 0.9), dreamtime=share)).tolist()
        assert drawn[0] == drawn[1]
        found.append(drawn[0])
    assert 900 >= found[0] > found[1] > found[2] >= 100


def test_every_rule_gives_a_gradient_of_its_own(prior):
    gradients = {}
    for rule in RULES:
        given = batch(guidance_scale=5, t_range=(0.5, 0.9))
        load(prior, rule=rule)(given).loss.backward()
        gradients[rule] = given.images.grad
        assert gradients[rule].isfinite().all() and gradients[rule].abs().sum() > 0
    for one, other in itertools.combinations(set(RULES) - {"nfsd"}, 2):
        assert not torch.allclose(gradients[one], gradients[other], rtol=1e-2)
    assert_close(gradients["nfsd"], gradients["csd"])  # at high noise and without a negative prompt


def test_a_negative_prompt_gives_the_noise_free_rule_a_domain(prior):
    gradients = []
    for rule in ("nfsd", "csd"):
        guidance, given = load(prior, rule=rule), batch(guidance_scale=5, t_range=(0.5, 0.9))
        guidance.prepare("a frog", negative="a car")
        guidance(given).loss.backward()
        gradients.append(given.images.grad)
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_rescaling_draws_the_prediction_to_the_spread_of_the_prompted_one(prior):
    spreads = []
    for rescale in (0.0, 1.0):
        guidance = load(prior, rescale=rescale)
        told = Told(guidance, guidance.condition(batch()), 30.0)
        seen = told.guided(random_latents(), torch.tensor([300, 700]))
        spreads.append((seen.guided.std((1, 2, 3)) / seen.positive.std((1, 2, 3))).tolist())
    assert all(abs(spread - 1) > 1e-2 for spread in spreads[0])
    assert spreads[1] == pytest.approx([1, 1])


@pytest.mark.parametrize("as_latents", [True, False])
def test_a_view_of_the_right_side_is_guided_as_the_mirror_image_of_one_of_the_left(prior, as_latents):
    """Azimuths 20, which is on the left, and -140."""
    plain, mirrored = (load(prior, views=ViewOptions(mirrored=mirrored)) for mirrored in (False, True))
    given = batch(latents=random_latents() if as_latents else None, guidance_scale=5)
    shown = given.latents if as_latents else given.images
    mirrored(given).loss.backward()
    by_hand = torch.stack([shown[0], shown[1].flip(-1)]).detach().requires_grad_()
    kind = "latents" if as_latents else "images"
    again = batch(latents=by_hand if as_latents else None, guidance_scale=5)
    plain(replace(again, azimuth=torch.tensor([20.0, 140.0]), **{kind: by_hand})).loss.backward()
    assert_close(shown.grad, torch.stack([by_hand.grad[0], by_hand.grad[1].flip(-1)]))


def test_pictures_may_be_led_to_the_pixels_of_the_target(folder):
    """Of a model that knows the original: the gradient is the weighted difference from its decoded picture."""
    guidance = load(folder, space="pixels")
    original = random_latents().detach()
    guidance.unet = OriginalKnown(original, guidance.alphas_cumprod, "epsilon")
    guidance.prompts.views.zero_()  # OriginalKnown then answers with exactly `original`
    given = batch(size=IMAGE, t_range=(0.3, 0.3), guidance_scale=1)
    output = guidance(given)
    output.loss.backward()
    difference = given.images.detach() - guidance.decode(original)
    alpha = guidance.alphas_cumprod[300]
    assert_close(given.images.grad, (alpha * (1 - alpha)).sqrt() * difference / 2, atol=1e-5, rtol=1e-4)
    assert_close(output.loss, 0.25 * (alpha * (1 - alpha)).sqrt() * difference.square().sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("options, kept", [({}, False), ({"pictures": True}, True), ({"space": "pixels"}, True)])
def test_the_decoder_is_kept_where_something_needs_it(prior, options, kept):
    assert (load(prior, **options).vae.decoder is not None) == kept


def test_in_pixels_the_encoder_keeps_nothing_for_a_gradient(prior):
    guidance, seen = load(prior, space="pixels"), []
    encode = guidance.encode
    guidance.encode = lambda images: seen.append(encode(images)) or seen[-1]
    guidance(batch()).loss.backward()
    assert [latents.requires_grad for latents in seen] == [False]


def test_a_view_whose_gradient_is_not_finite_changes_nothing_in_pixels_either(prior):
    guidance, given = load(prior, space="pixels"), batch()
    predict = guidance.predict_noise
    broken = torch.tensor([1.0, math.nan]).repeat(2).view(-1, 1, 1, 1)  # without and with the prompt
    guidance.predict_noise = lambda *asked: predict(*asked) * broken
    output = guidance(given)
    output.loss.backward()
    assert output.lost.tolist() == [False, True] and output.loss.isfinite()
    assert given.images.grad[0].abs().max() > 0 and given.images.grad[1].abs().max() == 0


def test_latents_are_led_to_latents_whatever_pictures_are_led_to(prior):
    gradients = []
    for space in ("latents", "pixels"):
        latents = random_latents()
        load(prior, space=space)(batch(latents=latents)).loss.backward()
        gradients.append(latents.grad)
    assert torch.equal(*gradients)


def test_latents_of_another_size_are_resized_and_keep_their_gradient(prior):
    latents = random_latents(size=24)
    load(prior)(batch(latents=latents)).loss.backward()
    assert latents.grad.shape == (2, 4, 24, 24) and latents.grad.abs().sum((1, 2, 3)).min() > 0


def test_perp_neg_with_no_negative_weight_is_plain_guidance(prior):
    gradients = []
    for options in (ViewOptions(), ViewOptions(perpneg=True, negative_w=0), ViewOptions(perpneg=True)):
        latents = random_latents()
        load(prior, views=options)(batch(latents=latents, guidance_scale=5)).loss.backward()
        gradients.append(latents.grad)
    assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)  # another batch size sums in another order
    assert not torch.allclose(gradients[0], gradients[2], atol=1e-5, rtol=1e-4)


def test_the_negative_prompt_takes_the_place_of_the_empty_one(prior):
    guidance, front = load(prior), load(prior, text="a car")
    guidance.prepare("a frog", negative=" a car, front view ")
    assert_close(guidance.condition(batch()).uncond, front.prompts.views[:1].expand(2, -1, -1))


def test_without_view_words_every_view_has_the_plain_prompt(prior):
    plain, said = load(prior, views=ViewOptions(words=False)), load(prior)
    assert all(torch.equal(view, plain.prompts.views[0]) for view in plain.prompts.views)
    assert not any(torch.equal(view, plain.prompts.views[0]) for view in said.prompts.views)
    assert torch.equal(plain.prompts.negative, said.prompts.negative)


def test_pictures_of_a_perfect_prediction_show_the_original_twice(folder):
    guidance = load(folder, pictures=True)
    original = random_latents().detach()
    guidance.unet = OriginalKnown(original, guidance.alphas_cumprod, "epsilon")
    guidance.prompts.views.zero_()  # OriginalKnown then answers with exactly `original`
    pictures = guidance(batch(latents=original, want_pictures=True, t_range=(0.1, 0.7), guidance_scale=1)).pictures
    shown, noised, estimate = pictures.split(2)
    with torch.no_grad():
        decoded = guidance.vae.decode(original / guidance.vae.config.scaling_factor).sample.add(1).div(2).clamp(0, 1)
    assert pictures.shape == (6, 3, IMAGE, IMAGE)
    assert_close(shown, decoded)
    assert_close(estimate, decoded, atol=1e-4, rtol=1e-4)  # float32 with division by sqrt(alpha_bar)
    assert not torch.allclose(noised, decoded, atol=1e-2)


def test_pictures_begin_with_the_rendered_images(prior):
    given = batch(size=IMAGE, want_pictures=True)
    assert torch.equal(load(prior, pictures=True)(given).pictures[:2], given.images)


def test_no_pictures_unless_asked(prior):
    assert load(prior, pictures=True)(batch()).pictures is None
    with pytest.raises(ValueError, match="--save_guidance"):
        load(prior)(batch(want_pictures=True))


def test_picture_grid_has_one_column_per_view():
    pictures = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    assert picture_grid(pictures, 2)[0, ::2, ::2].tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="6 pictures do not fill rows of 4"):
        picture_grid(pictures, 4)


def test_resize_averages_where_it_shrinks():
    checkerboard = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().expand(1, 1, 16, 16)
    assert_close(resize(checkerboard, (4, 4)), torch.full((1, 1, 4, 4), 0.5), atol=0.02, rtol=0)  # uneven at the border


@pytest.mark.parametrize("precision, tolerance", [("mixed", 0.02), ("bf16", 0.2)])
def test_lower_precision_gives_nearly_the_same_gradient(prior, precision, tolerance):
    gradients = []
    for p in ("fp32", precision):
        given = batch(guidance_scale=5)
        load(prior, precision=p)(given).loss.backward()
        gradients.append(given.images.grad)
    # bf16 has 8 bits; guidance multiplies what the UNet loses by its scale.
    assert (gradients[1] - gradients[0]).norm() < tolerance * gradients[0].norm()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_half_precision_on_cuda_gives_nearly_the_same_gradient(prior):
    gradients = []
    for precision in ("fp32", "fp16"):
        given = batch("cuda", guidance_scale=5)
        load(prior, "cuda", precision=precision)(given).loss.backward()
        gradients.append(given.images.grad)
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("latents", [True, False])
def test_the_guidance_may_compute_elsewhere(prior, latents):
    found = []
    for device in ("cpu", "cuda"):
        given = batch(latents=random_latents() if latents else None, want_pictures=not latents)
        output = load(prior, device, pictures=True)(given)
        output.loss.backward()
        found.append((given.latents if latents else given.images).grad)
        assert output.loss.device == found[-1].device == torch.device("cpu")
    assert_close(*found, atol=1e-4, rtol=1e-3)
