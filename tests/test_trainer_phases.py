"""Every phase, renderer, loss and guard of a run, and what a whole run leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tiny_diffusion
from host_waits import HostWaits
from nerf import build, checkpoint, commands
from nerf.config import Config
from nerf.export.files import to_uint8
from nerf.fields import HashGridField
from nerf.renderers import RaymarchRenderer, StratifiedRenderer
from tiny_run import SMALL, STEPS, logged, outputs, weights


def test_save_guidance_writes_what_the_model_sees(make):
    import imageio.v3 as imageio

    made = make(save_guidance=True, save_guidance_interval=2, batch_size=2, latent_iter_ratio=0.0)
    seen = outputs(made)
    paths = sorted((made.workspace / "guidance").iterdir())
    assert [path.name for path in paths] == [f"toybox_{step:06d}.png" for step in (0, 2, 4)]
    size = tiny_diffusion.IMAGE
    for path, (_, out, _) in zip(paths, seen[::2], strict=True):
        picture = imageio.imread(path)
        assert picture.shape == (3 * size, 2 * size, 3)  # shown, noisy, what the model makes of it; a column per view
        for view in range(2):  # training pictures have the size of the model's, so the first row is exactly them
            shown = picture[:size, view * size : (view + 1) * size]
            assert (shown == to_uint8(out.rgb[view])).all()


def test_without_save_guidance_there_are_no_pictures(make):
    made = make()
    made.train()
    assert not (made.workspace / "guidance").exists()


@pytest.mark.parametrize(
    "options, waits",
    [
        ({}, {}),
        ({"distill_space": "pixels", "batch_size": 2, "optim": "adam"}, {}),
        ({"lambda_tv": 0.1, "bg_radius": 1.4}, {}),
        ({"albedo_iter_ratio": 0.0, "lambda_orient": 1.0}, {"nonzero": 4}),  # which samples get a normal
    ],
)
def test_a_step_reads_nothing_back(make, options, waits):
    """Counted on the CPU: how many samples the rays have is known there without waiting; a GPU has to be asked."""
    made = make(latent_iter_ratio=0.0, **{"albedo_iter_ratio": 1.0, "update_extra_interval": 100, **options})
    made.train_step()
    with HostWaits() as seen:
        for _ in range(4):
            made.train_step()
    assert dict(seen.found) == waits


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("albedo", [1.0, 0.0])
def test_torch_waits_for_the_gpu_nowhere_in_a_step(make, albedo):
    made = make(latent_iter_ratio=0.0, albedo_iter_ratio=albedo, update_extra_interval=1, device="cuda")
    made.renderer.occupancy.warmup_updates = 2
    for _ in range(4):  # what is counted the first time, and compared once
        made.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def spied(made):
    """The batches that the guidance of a trainer is shown, as they come."""
    batches, judge = [], made.guidance["toybox"]

    def spy(batch):
        batches.append(batch)
        return judge(batch)

    made.guidance = {"toybox": spy}
    return batches


def test_the_guidance_is_told_the_timesteps_and_the_scale_of_every_step(make):
    made = make(guidance_scale=8.0, guidance_anneal=2.0, t_range=(0.1, 0.9), t_schedule="anneal", t_anneal=0.3)
    batches = spied(made)
    made.train()
    assert [batch.guidance_scale for batch in batches] == pytest.approx([8 - 6 * i / STEPS for i in range(STEPS)])
    assert [batch.t_range[1] for batch in batches] == pytest.approx([0.9 - 0.6 * i / STEPS for i in range(STEPS)])


def test_the_latent_phase_trains_on_normals_and_opacity(make):
    made = make(latent_iter_ratio=1.0)
    batches = spied(made)
    start = weights(made)
    seen = outputs(made)
    for batch, (plan, out, terms) in zip(batches, seen, strict=True):
        assert plan.as_latent and plan.shading == "normal" and batch.images is None
        assert batch.latents.shape == (1, 4, 16, 16)
        assert torch.equal(batch.latents[0, 3], 2 * out.opacity[0, ..., 0] - 1)
        assert terms["guidance"].isfinite()
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())


@pytest.mark.parametrize(
    "phase, options",
    [
        ("albedo", dict(albedo_iter_ratio=1.0)),
        ("lambertian", dict(albedo_iter_ratio=0.0, textureless_ratio=0.0)),
        ("textureless", dict(albedo_iter_ratio=0.0, textureless_ratio=1.0)),
        ("normal", dict(latent_iter_ratio=1.0)),
    ],
)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "stratified"])
def test_every_shading_trains_with_every_renderer(make, phase, options, packed):
    made = make(iters=3, cuda_ray=packed, **{"latent_iter_ratio": 0.0, **options})
    assert isinstance(made.renderer, RaymarchRenderer if packed else StratifiedRenderer)
    start = weights(made)
    for plan, out, terms in outputs(made):
        assert plan.shading == phase
        assert all(torch.as_tensor(value).isfinite() for value in terms.values())
        # 1e-5: rounding of a sum of weights; normals as colours need no more
        assert out.rgb.min() >= -1e-5 and out.rgb.max() <= 1 + 1e-5
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())
    assert all(value.isfinite().all() for value in weights(made).values())


@pytest.mark.parametrize(
    "options, decay",
    [
        (dict(), 1.0),
        (dict(lr_decay=0.3), 0.3),
        (dict(backbone="vanilla"), 0.1),
        (dict(backbone="vanilla", lr_decay=1.0), 1.0),
    ],
    ids=["grid", "0.3", "vanilla", "vanilla, 1"],
)
def test_the_learning_rates_decay(make, options, decay):
    made = make(cuda_ray=False, latent_iter_ratio=0.0, **options)
    first, start = [group["lr"] for group in made.optimizer.param_groups], weights(made)
    assert made.train()
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())
    left = decay ** ((STEPS - 1) / STEPS)  # in the last step
    assert [group["lr"] for group in made.optimizer.param_groups] == pytest.approx([rate * left for rate in first])


def test_perpneg_changes_what_is_learnt(make):
    plain, steered = make("plain"), make("steered", perpneg=True)
    plain.train(), steered.train()
    assert all(value.isfinite().all() for value in weights(steered).values())
    assert any(not torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(steered).values(), strict=True))


def test_every_loss_takes_part(make):
    names = ["entropy", "opacity", "orient", "tv", "wd", "2d_normal_smooth", "3d_normal_smooth"]
    made = make(latent_iter_ratio=0.0, **{f"lambda_{name}": 0.01 for name in names})
    made.train()
    shown = {"entropy", "opacity", "orient", "2d_normal_smooth", "3d_normal_smooth"}  # tv and wd add gradients only
    assert shown <= set(logged(made)[-1])
    assert all(value.isfinite().all() for value in weights(made).values())


def test_grad_clip_bounds_the_gradient_of_the_guidance(make):
    free = [float(terms["toybox_gradient_rms"]) for _, _, terms in outputs(make("free"))]
    limit = min(free) / 10
    clipped = [float(terms["toybox_gradient_rms"]) for _, _, terms in outputs(make("clipped", grad_clip=limit))]
    assert max(clipped) <= limit * (1 + 1e-6)


def test_grad_clip_rgb_bounds_the_gradient_of_the_picture(make):
    def largest(folder, **options):
        made, found = make(folder, latent_iter_ratio=0.0, **options), []
        render = made.renderer.render

        def spy(*args, **kwargs):
            out = render(*args, **kwargs)
            out.rgb.retain_grad()
            found.append(out.rgb)
            return out

        made.renderer.render = spy
        made.train()
        return [float(rgb.grad.abs().max()) for rgb in found]

    limit = min(largest("free")) / 10
    assert max(largest("clipped", grad_clip_rgb=limit)) <= limit * (1 + 1e-6)


def test_latest_model_takes_the_weights_and_starts_counting_anew(make):
    made = make()
    made.train()
    again = make(ckpt="latest_model")
    assert again.step == 0
    assert all(torch.equal(value, weights(made)[name]) for name, value in weights(again).items())


def run_config(prior, workspace, **options):
    values = {**SMALL, "toybox_dir": prior, "save_mesh": True, "workspace": str(workspace), **options}
    return Config().updated(values)


def test_a_whole_run_leaves_video_mesh_and_an_account_of_itself(prior, tmp_path):
    import trimesh

    config = run_config(prior, tmp_path)
    commands.run_training(config)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert Config().updated(stored) == config
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["step"] == STEPS and report["text"] == "a frog" and report["seed"] == 0 and report["device"] == "cpu"
    assert set(report["seconds"]) == {"compile", "load", "train", "render", "mesh"}
    assert report["peak_memory_gb"] > 0 and report["versions"]["torch"] == torch.__version__
    assert report["mesh"]["faces"] > 3
    for kind in ("rgb", "depth", "normal"):
        assert (tmp_path / "results" / f"turntable_{kind}.mp4").stat().st_size > 0
    for name in ("mesh.obj", "mesh.mtl", "albedo.png", "mesh.glb"):
        assert (tmp_path / "mesh" / name).stat().st_size > 0
    mesh = trimesh.load(tmp_path / "mesh" / "mesh.glb", force="mesh")
    assert len(mesh.faces) == report["mesh"]["faces"] and np.abs(mesh.vertices).max() <= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_a_run_cut_short_in_its_video_is_not_reported_as_whole(prior, tmp_path, monkeypatch, error):
    config = run_config(prior, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(commands.evaluate, "turntable", failing(error))
        commands.run_training(config)
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["step"] == STEPS and report["from_step"] == 0 and "text" not in report
    commands.run_training(config)
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["from_step"] == STEPS and report["text"] == "a frog"


def test_scratch_keeps_the_old_run_aside_once_nothing_can_stop_the_new_one(prior, tmp_path, monkeypatch, capsys):
    checkpoint.save(tmp_path / "checkpoints", {"a": 1}, {"step": 7, "text": "a frog", "architecture": {}})
    config = run_config(prior, tmp_path, ckpt="scratch", iters=1, save_mesh=False)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="no such prior"):
        patch.setattr(build, "build_guidance", failing(ValueError("no such prior")))
        commands.run_training(config)
    assert checkpoint.find(tmp_path).name == "step_000007.pt" and not (tmp_path / "old-1").exists()
    commands.run_training(config)
    assert checkpoint.find(tmp_path / "old-1").name == "step_000007.pt"
    assert checkpoint.find(tmp_path).name == "step_000001.pt"
    assert f"the old run is kept in {tmp_path / 'old-1'}" in capsys.readouterr().err


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


def test_an_empty_scene_is_one_line_with_its_densities(prior, tmp_path, monkeypatch):
    monkeypatch.setattr(HashGridField, "density", lambda self, x: x.new_zeros(len(x)))
    with pytest.raises(ValueError, match="the scene is empty: density min/mean/max = 0/0/0") as caught:
        commands.run_training(run_config(prior, tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mesh").exists()
    assert json.loads((tmp_path / "run.json").read_text())["text"] == "a frog"  # which is a result
    assert (tmp_path / "results" / "turntable_rgb.mp4").exists()
