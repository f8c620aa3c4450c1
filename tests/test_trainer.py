"""The loop: exact, resumable, frozen where it must be, and what it leaves behind.

A diffusion model of a few thousand random weights, 16 x 16 pictures and six steps: nothing is learnt here, but every
part of a real run takes part.
"""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

import tiny_diffusion
from nerf import build, checkpoint, trainer
from nerf.config import Config
from nerf.export.files import to_uint8
from nerf.fields import HashGridField
from nerf.renderers import RaymarchRenderer, StratifiedRenderer

CPU = torch.device("cpu")
STEPS = 6
SMALL = dict(
    text="a frog",
    workspace="out",
    guidance=("toybox",),
    guidance_scale=7.5,
    iters=STEPS,
    w=16,
    h=16,
    latent_iter_ratio=0.34,  # two latent steps, two with plain colours, two shaded
    albedo_iter_ratio=0.67,
    num_levels=4,
    log2_hashmap_size=8,
    base_resolution=4,
    desired_resolution=32,
    occupancy_resolution=16,
    update_extra_interval=2,
    max_steps=64,
    num_steps=8,
    upsample_steps=8,
    dataset_size_train=STEPS,
    dataset_size_valid=2,
    video_size=16,
    frames=2,
    mcubes_resolution=16,
    texture_size=32,
    decimate_target=200,
    device="cpu",
)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return tiny_diffusion.save_pipeline(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def make(prior, tmp_path, monkeypatch):
    """make(folder, option=value, ...): a trainer whose workspace is folder/out, the same command in every folder."""

    def create(folder="run", **options):
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        monkeypatch.chdir(path)
        return build.build_trainer(Config().updated({**SMALL, "toybox_dir": prior, **options}), CPU)

    return create


@pytest.fixture
def every_step_logged(monkeypatch):
    monkeypatch.setattr(trainer, "LOG_INTERVAL", 1)


def final(made, step=STEPS):
    return (made.workspace.absolute() / "checkpoints" / f"step_{step:06d}.pt").read_bytes()


def watch_steps(made, after):
    """Call `after(step)` when a step is done, inside the loop."""
    step = made.train_step

    def watched():
        result = step()
        after(made.step)
        return result

    made.train_step = watched


def interrupt_at(made, step):
    """Ctrl-C while the step before `step` runs."""
    watch_steps(made, lambda now: os.kill(os.getpid(), signal.SIGINT) if now == step else None)


def outputs(made):
    """[(plan, RenderOutput, terms)] of a whole run."""
    seen, step = [], made.train_step

    def watched():
        plan = made.schedule.plan(made.step)
        out, terms = step()
        seen.append((plan, out, terms))
        return out, terms

    made.train_step = watched
    assert made.train()
    return seen


def logged(made):
    return [json.loads(line) for line in (made.workspace.absolute() / "log.jsonl").read_text().splitlines()]


def weights(made):
    return {name: p.detach().clone() for name, p in made.renderer.named_parameters()}


def test_the_same_command_gives_the_same_bytes(make):
    runs = []
    for folder in ("first", "second"):
        made = make(folder)
        assert made.train()
        runs.append(final(made))
    assert runs[0] == runs[1]


def test_another_seed_gives_another_object(make):
    one, other = make("one"), make("other", seed=1)
    one.train(), other.train()
    assert not all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("optim", ["adan", "adam"])
@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_run_ends_with_the_bytes_of_an_unbroken_one(make, step, optim):
    unbroken = make("unbroken", optim=optim)
    assert unbroken.train()
    expected = final(unbroken)
    broken = make("broken", optim=optim)
    interrupt_at(broken, step)
    assert not broken.train()
    assert broken.step == step and final(broken, step)
    resumed = make("broken", optim=optim)
    assert resumed.step == step
    assert resumed.train()
    assert final(resumed) == expected


def test_the_stratified_renderer_resumes_exactly_too(make):
    options = dict(cuda_ray=False, backbone="vanilla", latent_iter_ratio=0.0)
    unbroken = make("unbroken", **options)
    unbroken.train()
    expected = final(unbroken)
    broken = make("broken", **options)
    interrupt_at(broken, 2)
    assert not broken.train()
    resumed = make("broken", **options)
    resumed.train()
    assert final(resumed) == expected


def test_validation_does_not_change_what_is_learnt(make, monkeypatch):
    quiet = make("quiet")
    quiet.train()
    watched = make("quiet2")
    watched.save_interval = 2
    watched.train()
    assert (watched.workspace / "validation" / "step_000002.png").exists()
    for name, value in weights(quiet).items():
        assert torch.equal(value, weights(watched)[name]), name


def test_a_second_ctrl_c_is_not_waited_for(make):
    made, before = make(), signal.getsignal(signal.SIGINT)

    def twice(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    watch_steps(made, twice)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.find("out") is None


def test_the_diffusion_model_is_frozen(make):
    made = make()
    parts = [made.guidance["toybox"].unet, made.guidance["toybox"].vae]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    start = weights(made)
    assert made.train()
    for part, values in zip(parts, before, strict=True):
        assert not part.training
        assert all(torch.equal(value, values[name]) for name, value in part.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    mine = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in made.renderer.parameters() if p.requires_grad}
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())


def test_every_part_of_the_field_learns(make):
    made = make(iters=8, latent_iter_ratio=0.0, albedo_iter_ratio=0.0, textureless_ratio=0.0)
    start = weights(made)
    made.train()
    still = [name for name, value in weights(made).items() if torch.equal(value, start[name])]
    assert not still


def test_the_log_has_a_line_for_each_look_and_finite_numbers(make, every_step_logged):
    made = make()
    made.train()
    lines = logged(made)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert {"guidance", "entropy", "opacity_mean", "samples_per_second", "toybox_timestep"} <= set(lines[-1])
    assert list((made.workspace / "run").glob("events*"))


def test_a_run_that_is_wound_back_forgets_the_lines_after_it(make, every_step_logged):
    made = make()
    made.save_interval = 2
    made.train()
    before = logged(made)
    with open("out/log.jsonl", "a") as file:
        file.write('{"step": 7, "gui')  # killed while writing
    again = make(ckpt="out/checkpoints/step_000004.pt")
    assert again.step == 4
    interrupt_at(again, 5)
    again.train()
    assert [line["step"] for line in logged(again)] == [1, 2, 3, 4, 5]
    assert logged(again)[:4] == before[:4]
    assert checkpoint.find("out").name == "step_000005.pt"


def test_only_the_last_two_checkpoints_stay(make):
    made = make()
    made.save_interval = 1
    made.train()
    assert sorted(path.name for path in (made.workspace / "checkpoints").iterdir()) == [
        "step_000005.pt",
        "step_000006.pt",
    ]


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


def test_the_latent_phase_trains_on_normals_and_opacity(make):
    made = make(latent_iter_ratio=1.0)
    batches, prior = [], made.guidance["toybox"]

    def spy(batch):
        batches.append(batch)
        return prior(batch)

    made.guidance = {"toybox": spy}
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


def test_the_vanilla_backbone_trains_and_its_rate_decays(make):
    made = make(backbone="vanilla", cuda_ray=False, latent_iter_ratio=0.0)
    first = made.optimizer.param_groups[0]["lr"]
    start = weights(made)
    assert made.train()
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(first * 0.1 ** ((STEPS - 1) / STEPS))


def test_perpneg_changes_what_is_learnt(make):
    plain, steered = make("plain"), make("steered", perpneg=True)
    plain.train(), steered.train()
    assert all(value.isfinite().all() for value in weights(steered).values())
    assert any(not torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(steered).values(), strict=True))


def test_every_loss_takes_part(make, every_step_logged):
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
    build.run_training(config)
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


def test_an_empty_scene_is_one_line_with_its_densities(prior, tmp_path, monkeypatch):
    monkeypatch.setattr(HashGridField, "density", lambda self, x: x.new_zeros(len(x)))
    with pytest.raises(ValueError, match="the scene is empty: density min/mean/max = 0/0/0") as caught:
        build.run_training(run_config(prior, tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mesh").exists()
    assert (tmp_path / "results" / "turntable_rgb.mp4").exists()
