import pytest
import torch
from torch.testing import assert_close

from guidance import distill


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ALPHAS = torch.tensor([0.9, 0.35, 1e-3], dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", distill.PREDICTION_TYPES)
def test_predictions_of_every_type_give_the_same_noise(prediction_type):
    original, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    a = ALPHAS.view(3, 1, 1, 1)
    noisy = a.sqrt() * original + (1 - a).sqrt() * noise
    output = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * original, "sample": original}
    assert_close(distill.predicted_noise(output[prediction_type], noisy, ALPHAS, prediction_type), noise)


def test_add_noise_then_predicted_original_is_the_identity():
    original, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    noisy = distill.add_noise(original, noise, ALPHAS)
    assert_close(distill.predicted_original(noise, noisy, ALPHAS), original)


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction_type needs one of epsilon, v_prediction, sample, got 'flow'"):
        distill.predicted_noise(normal(3, 1), normal(3, 1), ALPHAS, "flow")


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_conversions_stay_finite_at_the_ends_of_the_schedule(alpha):
    alphas = torch.tensor([alpha], dtype=torch.float64)
    x = normal(1, 4, 2, 2)
    assert distill.predicted_original(x, x, alphas).isfinite().all()
    for prediction_type in distill.PREDICTION_TYPES:
        assert distill.predicted_noise(x, x, alphas, prediction_type).isfinite().all()


def test_guidance_scale_one_is_the_conditional_prediction_and_zero_the_unconditional():
    uncond, cond = normal(2, 3), normal(2, 3, seed=1)
    assert_close(distill.classifier_free_guidance(uncond, cond, 1.0), cond)
    assert_close(distill.classifier_free_guidance(uncond, cond, 0.0), uncond)
    assert_close(distill.classifier_free_guidance(uncond, cond, 7.5), -6.5 * uncond + 7.5 * cond)


def test_perpendicular_is_orthogonal_per_element_and_leaves_a_parallel_rest():
    v, onto = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    rest = distill.perpendicular(v, onto)
    assert_close((rest * onto).sum((1, 2, 3)), torch.zeros(3, dtype=torch.float64))
    cosine = torch.cosine_similarity((v - rest).flatten(1), onto.flatten(1)).abs()
    assert_close(cosine, torch.ones(3, dtype=torch.float64))


def test_perpendicular_to_nothing_is_the_vector_itself():
    v = normal(2, 4)
    assert_close(distill.perpendicular(v, torch.zeros_like(v)), v)


def test_perp_neg_never_changes_how_far_it_goes_along_the_positive():
    uncond, positive, negatives = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1), normal(2, 2, 3, 2, 2, seed=2)
    weights = torch.tensor([[-2.0, -0.5], [-1.0, 0.0]], dtype=torch.float64)
    delta = positive - uncond
    step = distill.perp_neg(uncond, positive, negatives, weights, 7.5) - uncond
    assert_close((step * delta).sum((1, 2, 3)), 7.5 * delta.square().sum((1, 2, 3)))
    away = (step - 7.5 * delta).flatten(1)  # points away from the one negative of the second view
    assert (away[1] * (negatives - uncond[:, None])[1, 0].flatten()).sum() < 0


def test_perp_neg_without_weights_is_classifier_free_guidance():
    uncond, positive, negatives = normal(2, 3), normal(2, 3, seed=1), normal(2, 2, 3, seed=2)
    ours = distill.perp_neg(uncond, positive, negatives, torch.zeros(2, 2, dtype=torch.float64), 5.0)
    assert_close(ours, uncond + 5 * (positive - uncond))


def test_perp_neg_of_equal_predictions_is_finite():
    same = normal(2, 3)
    ours = distill.perp_neg(same, same, same[:, None], torch.full((2, 1), -2.0), 100.0)
    assert_close(ours, same)


def test_sds_gradient_is_the_score_difference_times_the_noise_level():
    predicted, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    ours = distill.sds_gradient(predicted, noise, ALPHAS)
    for b, alpha in enumerate([0.9, 0.35, 1e-3]):
        assert_close(ours[b], (1 - alpha) * (predicted[b] - noise[b]))


def test_distillation_loss_has_the_given_gradient_averaged_over_the_batch():
    latents, gradient = normal(3, 4, 2, 2).requires_grad_(), normal(3, 4, 2, 2, seed=1)
    loss = distill.distillation_loss(latents, gradient)
    loss.backward()
    assert_close(latents.grad, gradient / 3)
    assert_close(loss.detach(), 0.5 * gradient.square().sum() / 3)


def test_the_target_of_score_distillation_is_the_predicted_original():
    latents, noise, seen = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1), normal(3, 4, 2, 2, seed=2)
    gradient = distill.sds_gradient(seen, noise, ALPHAS)
    target, weights = distill.target_of(latents, gradient, ALPHAS)
    noisy = distill.add_noise(latents, noise, ALPHAS)
    assert_close(target, distill.predicted_original(seen, noisy, ALPHAS))
    assert_close(weights.view(3, 1, 1, 1) * (latents - target), gradient)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_no_gradient_has_its_target_where_it_is_at_the_ends_of_the_schedule(alpha):
    latents = normal(1, 4, 2, 2)
    target, _ = distill.target_of(latents, torch.zeros_like(latents), torch.tensor([alpha], dtype=torch.float64))
    assert_close(target, latents)


def test_the_pixel_loss_is_the_weighted_square_distance_averaged_over_the_views():
    images, target = normal(3, 3, 5, 4).requires_grad_(), normal(3, 3, 5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: distill.pixel_loss(x, target, ALPHAS), images)
    distill.pixel_loss(images, target.requires_grad_(), ALPHAS).backward()
    assert target.grad is None
    assert_close(images.grad, ALPHAS.view(3, 1, 1, 1) * (images - target).detach() / 3)
