"""nerf/watch.py, and a run in which things go wrong."""

from __future__ import annotations

import math

import pytest
import torch

from guidance.types import GuidanceBatch
from nerf import trainer as loop
from nerf import watch as watching
from nerf.watch import FLAT_LOOKS, LOST_STEPS, Diverged, Tally, Verdict, Watch
from tiny_run import STEPS, interrupt_at, logged, watch_steps, weights


@pytest.fixture
def make(make, monkeypatch):
    monkeypatch.setattr(loop, "LOG_INTERVAL", 1)
    monkeypatch.setattr(watching, "LOST_STEPS", 2)
    return make


def test_a_lost_view_is_steadied_once_and_then_let_be():
    watch = Watch()
    assert [watch.judge(share, 0, True) for share in (0, 0.1, 0.1, 0)] == [
        Verdict.FINE,
        Verdict.STEADY,
        Verdict.FINE,
        Verdict.FINE,
    ]


@pytest.mark.parametrize("row", [1, LOST_STEPS, 3 * LOST_STEPS])
def test_float32_is_tried_first_even_where_every_view_is_lost(row):
    watch = Watch()
    assert watch.judge(1.0, row, True) is Verdict.STEADY
    assert watch.judge(1.0, LOST_STEPS - 1, True) is Verdict.FINE
    assert watch.judge(1.0, LOST_STEPS, True) is Verdict.RESTORE
    assert watch.judge(1.0, LOST_STEPS - 1, True) is Verdict.FINE
    assert watch.judge(1.0, LOST_STEPS, True) is Verdict.STOP


@pytest.mark.parametrize("skipped, row, finite", [(1.0, LOST_STEPS, True), (0.0, 0, False), (0.5, 0, False)])
def test_what_cannot_go_on_is_restored_once_and_then_stopped(skipped, row, finite):
    watch = Watch(steadied=True)
    assert watch.judge(skipped, row, finite) is Verdict.RESTORE and watch.judge(0, 0, True) is Verdict.FINE
    assert watch.judge(skipped, row, finite) is Verdict.STOP


def test_lost_steps_are_counted_in_a_row_across_looks_and_shares_from_look_to_look():
    tally, seen = Tally(), []
    for shares in ([0.5, 1.0], [1.0, 1.0], [1.0, 0.5], [0.0, 1.0]):
        for share in shares:
            tally.add(torch.tensor(share))
        seen.append(tally.read())
    assert seen == [(0.75, 1), (1.0, 3), (0.75, 0), (0.5, 1)]


@pytest.mark.parametrize("mean, said", [(0.0, "empty"), (1.0, "full")])
def test_pictures_that_stay_empty_or_full_are_told_once_within_two_hundred_steps(mean, said):
    watch = Watch()
    lines = [watch.opacity({"opacity_mean": mean}) for _ in range(3 * FLAT_LOOKS)]
    assert [bool(line) for line in lines].index(True) * loop.LOG_INTERVAL < 200 and sum(map(bool, lines)) == 1
    assert said in lines[FLAT_LOOKS - 1]


def test_a_picture_that_recovers_is_not_told():
    watch = Watch()
    means = ([0.0] * (FLAT_LOOKS - 1) + [0.3]) * 3
    assert not any(watch.opacity({"opacity_mean": mean}) for mean in means)
    assert not watch.opacity({})


def spoil(made, views, value=math.nan):
    """What the diffusion model says of views[step] (a slice of the batch) is `value`."""
    prior = made.guidance["toybox"]
    predict = prior.predict_noise

    def spoilt(noisy, timesteps, embeddings):
        said = predict(noisy, timesteps, embeddings)
        if made.step in views:
            said.view(-1, made.schedule.batch_size, *said.shape[1:])[:, views[made.step]] = value
        return said

    prior.predict_noise = spoilt


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_view_without_a_finite_gradient_changes_nothing(prior, value):
    from guidance.stable_diffusion import StableDiffusion

    guidance = StableDiffusion(prior)
    guidance.prepare("a frog")
    given = lambda: GuidanceBatch(  # noqa: E731
        images=torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(),
        azimuth=torch.zeros(2),
        elevation=torch.zeros(2),
        generator=torch.Generator().manual_seed(0),
        guidance_scale=5.0,
    )
    whole = given()
    guidance(whole).loss.backward()
    predict = guidance.predict_noise

    def spoilt(*args):
        said = predict(*args)
        said.view(-1, 2, *said.shape[1:])[:, 1] = value
        return said

    guidance.predict_noise = spoilt
    partly = given()
    out = guidance(partly)
    out.loss.backward()
    assert out.lost.tolist() == [False, True]
    assert torch.equal(partly.images.grad[0], whole.images.grad[0]) and not partly.images.grad[1].any()


@pytest.mark.parametrize("space", ["latents", "pixels"])
def test_a_picture_that_is_not_finite_does_not_reach_the_others(prior, space):
    from guidance.stable_diffusion import StableDiffusion

    guidance = StableDiffusion(prior, space=space)
    guidance.prepare("a frog")
    images = torch.rand(2, 3, 16, 16)
    images[1, 0, 3, 3] = math.nan
    images.requires_grad_()
    zero = torch.zeros(2)
    out = guidance(GuidanceBatch(images=images, azimuth=zero, elevation=zero, generator=torch.Generator()))
    out.loss.backward()
    assert out.loss.isfinite() and out.lost.tolist() == [False, True]
    assert images.grad.isfinite().all() and images.grad[0].any() and not images.grad[1].any()


def test_a_run_survives_a_step_without_a_finite_gradient_and_says_so(make, capsys):
    made = make(batch_size=2, latent_iter_ratio=0.0)
    spoil(made, {2: slice(0, 1)})
    assert made.train() and made.step == STEPS
    assert all(p.isfinite().all() for p in weights(made).values())
    assert [line["toybox_skipped"] for line in logged(made)] == [0, 0, 0.5, 0, 0, 0]
    assert "step 3: 50% of the views without a finite gradient: they change nothing" in "".join(capsys.readouterr())


def spoil_encoder(made, forwards):
    """What the encoder says, or what comes back through it, is not finite, until it computes in float32."""
    prior, steadied = made.guidance["toybox"], []
    encode = prior.encode

    def spoilt(images):
        latents = encode(images)
        if steadied:
            return latents
        if forwards:
            return latents * math.inf
        latents.register_hook(lambda gradient: gradient * math.inf)
        return latents

    prior.encode = spoilt
    prior.steady = lambda: not steadied and not steadied.append(True)
    return steadied


@pytest.mark.parametrize("forwards", [True, False], ids=["forwards", "backwards"])
def test_an_encoder_that_overflows_in_every_view_goes_on_in_float32(make, forwards, capsys):
    """Without any checkpoint, as in the first steps of a run."""
    made = make(latent_iter_ratio=0.0)
    steadied = spoil_encoder(made, forwards)
    assert made.train() and steadied
    assert [line["skipped"] for line in logged(made)] == [1, 0, 0, 0, 0, 0]
    assert "toybox encodes in float32 from here on" in "".join(capsys.readouterr())


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(make):
    made, seen = make(latent_iter_ratio=0.0), []
    render = made.renderer.render

    def spoilt(*args, **kwargs):
        out = render(*args, **kwargs)
        if made.step == 2:
            seen.append(weights(made))
            next(made.renderer.parameters()).register_hook(lambda gradient: gradient * math.nan)
        elif made.step == 3:
            seen.append(weights(made))
        return out

    made.renderer.render = spoilt
    made.train_step(), made.train_step()
    assert float(made.train_step()[1]["skipped"]) == 1
    made.train_step()
    assert all(torch.equal(value, seen[1][name]) for name, value in seen[0].items())


def test_a_run_that_goes_wrong_returns_to_its_checkpoint_with_half_the_rate(make, capsys):
    made = make(dataset_size_train=2, latent_iter_ratio=0.0)
    spoilt = {3: slice(None), 4: slice(None), 5: slice(None)}
    spoil(made, spoilt)
    original = made._restore

    def restore():
        spoilt.clear()  # a passing fault
        return original()

    made._restore = restore
    before = [group["lr"] for group in made.optimizer.param_groups]
    assert made.train() and made.step == STEPS
    assert [group["lr"] for group in made.optimizer.param_groups] == [rate / 2 for rate in before]
    assert "back to step 4 with half the learning rate" in "".join(capsys.readouterr())


def test_half_the_rate_is_half_of_the_first_one_where_it_decays(make):
    made = make(backbone="vanilla", cuda_ray=False, dataset_size_train=2, latent_iter_ratio=0.0)
    before = [group["lr"] for group in made.optimizer.param_groups]
    assert made.train() and made.optimizer.param_groups[0]["lr"] < before[0] / 2
    assert made._restore()
    assert [group["initial_lr"] for group in made.optimizer.param_groups] == [rate / 2 for rate in before]


def test_a_run_that_goes_wrong_again_stops_with_what_to_try(make):
    made = make(dataset_size_train=2, latent_iter_ratio=0.0)
    spoil(made, dict.fromkeys(range(3, STEPS), slice(None)))
    with pytest.raises(Diverged, match="stopped in step 6: 100% of the views without a finite gradient; try another"):
        made.train()


def break_at(made, step):
    """Weights that are not finite after the steps of that number."""

    def broken(now):
        if now == step:
            with torch.no_grad():
                next(made.renderer.parameters()).view(-1)[0] = math.nan

    watch_steps(made, broken)


def saved(made):
    return sorted(path.name for path in (made.workspace.absolute() / "checkpoints").glob("*"))


def test_weights_that_are_not_finite_are_noticed(make):
    made = make(dataset_size_train=2)
    break_at(made, 5)
    with pytest.raises(Diverged, match="weights that are not finite"):
        made.train()


def test_weights_that_are_not_finite_are_never_saved(make, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LOG_INTERVAL", 4)
    made = make(dataset_size_train=1)
    break_at(made, 3)
    with pytest.raises(Diverged):
        made.train()
    assert saved(made) == ["step_000001.pt", "step_000002.pt"]
    assert "step 3: weights that are not finite: not saved" in "".join(capsys.readouterr())


def test_weights_that_are_not_finite_are_not_saved_by_ctrl_c_either(make, monkeypatch):
    monkeypatch.setattr(loop, "LOG_INTERVAL", 4)
    made = make()
    break_at(made, 1)
    interrupt_at(made, 1)
    assert not made.train() and saved(made) == []


def test_a_run_goes_back_to_no_checkpoint_of_another_run(make):
    before = make()
    before.save_interval = 2
    assert before.train() and saved(before) == ["step_000004.pt", "step_000006.pt"]
    wound_back, anew = make(ckpt="out/checkpoints/step_000004.pt"), make(ckpt="latest_model")
    assert wound_back._restore() and wound_back.step == 4
    assert not anew._restore() and anew.step == 0
