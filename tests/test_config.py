"""The options: names and defaults of stable-dreamfusion, and what makes no sense is refused in one line."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from nerf import select_guidance
from nerf.config import ROOT, Config, options, spelling
from nerf.presets import PRESETS
from nerf.validate import validate

# name -> default, from the table of options that users of stable-dreamfusion know.
KNOWN_DEFAULTS = {
    "negative": "", "test": False, "six_views": False, "workspace": "workspace", "ckpt": "latest",
    "eval_interval": 1, "test_interval": 100, "save_mesh": False, "mcubes_resolution": 256, "decimate_target": 50000,
    "guidance_scale": 100, "sd_version": "2.1", "hf_key": None, "t_range": (0.02, 0.98), "perpneg": False,
    "negative_w": -2, "front_decay_factor": 2, "side_decay_factor": 10, "lambda_guidance": 1,
    "iters": 10000, "lr": 1e-3, "optim": "adan", "fp16": False, "vram_O": False, "batch_size": 1, "w": 64, "h": 64,
    "latent_iter_ratio": 0.2, "albedo_iter_ratio": 0, "min_ambient_ratio": 0.1, "textureless_ratio": 0.2,
    "grad_clip": -1, "grad_clip_rgb": -1, "dataset_size_train": 100, "dataset_size_valid": 8,
    "max_steps": 1024, "num_steps": 64, "upsample_steps": 32, "update_extra_interval": 16, "max_ray_batch": 4096,
    "dt_gamma": 0, "min_near": 0.01, "bound": 1,
    "backbone": "grid", "bg_radius": 1.4, "density_activation": "exp", "density_thresh": 10, "blob_density": 5,
    "blob_radius": 0.2, "progressive_level": False,
    "radius_range": (3, 3.5), "theta_range": (45, 105), "phi_range": (-180, 180), "fovy_range": (10, 30),
    "jitter_pose": False, "jitter_center": 0.2, "jitter_target": 0.2, "jitter_up": 0.02, "uniform_sphere_rate": 0,
    "progressive_view": False, "progressive_view_init_ratio": 0.2, "angle_overhead": 30, "angle_front": 60,
    "lambda_entropy": 1e-3, "lambda_opacity": 0, "lambda_orient": 1e-2, "lambda_tv": 0, "lambda_wd": 0,
    "lambda_2d_normal_smooth": 0, "lambda_3d_normal_smooth": 0,
    "save_guidance": False, "save_guidance_interval": 10,
}  # fmt: skip


def set_options(**values):
    return Config().updated({"text": "a frog", **values})


@pytest.mark.parametrize("name", KNOWN_DEFAULTS)
def test_option_has_the_default_that_users_know(name):
    assert Config().flat()[name] == KNOWN_DEFAULTS[name]


def test_turntable_has_100_frames_as_dataset_size_test_had():
    assert Config().results.frames == 100
    assert options()["frames"].metadata["alias"] == "--dataset_size_test"


def test_importing_the_configuration_does_not_import_torch():
    code = "import nerf.config, nerf.cli, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_option_has_help_and_a_name_of_its_own():
    names = [name for group in Config().__dict__.values() for name in group.__dict__]
    assert len(names) == len(set(names)) == len(options())
    assert all(option.metadata["help"] for option in options().values())


def test_configuration_survives_json():
    config = set_options(t_range=(0.1, 0.5), guidance=("toybox",))
    assert Config().updated(json.loads(json.dumps(config.flat()))) == config


def test_configuration_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        Config().training.iters = 3


def test_unknown_option_is_refused():
    with pytest.raises(ValueError, match="no such option: itres"):
        Config().updated({"itres": 3})


@pytest.mark.parametrize("name", PRESETS)
def test_preset_makes_sense(name):
    validate(set_options(**PRESETS[name]))


def test_defaults_make_sense():
    validate(Config())


def test_fingerprint_holds_what_shapes_the_model_and_nothing_else():
    same = set_options(iters=3, lr=1.0, workspace="elsewhere", seed=9)
    assert same.fingerprint() == set_options().fingerprint()
    for change in ({"num_levels": 4}, {"backbone": "vanilla"}, {"text": "a duck"}, {"bound": 2.0}):
        assert set_options(**change).fingerprint() != set_options().fingerprint()


def test_another_name_of_the_same_backbone_has_the_same_fingerprint():
    assert set_options(backbone="grid_taichi").fingerprint() == set_options(backbone="grid").fingerprint()


FINEST = "--desired_resolution times --bound needs a value from"
BAD_VALUES = [
    (dict(radius_range=(4.0, 2.0)), "--radius_range needs 0 < min <= max, got 4.0 2.0"),
    (dict(radius_range=(-1.0, 2.0)), "--radius_range needs 0 < min <= max, got -1.0 2.0"),
    (dict(radius_range=(1.0,)), "--radius_range needs 2 numbers, got 1.0"),
    (dict(theta_range=(0.0, 200.0)), "--theta_range needs 0 <= min <= max <= 180, got 0.0 200.0"),
    (dict(phi_range=(90.0, -90.0)), "--phi_range needs -360 <= min <= max <= 360, got 90.0 -90.0"),
    (dict(fovy_range=(0.0, 30.0)), "--fovy_range needs 0 < min <= max <= 170, got 0.0 30.0"),
    (dict(t_range=(0.5, 1.5)), "--t_range needs 0 <= min <= max <= 1, got 0.5 1.5"),
    (dict(t_schedule="anneal", t_anneal=0.99), "--t_anneal needs a value inside --t_range 0.02 0.98, got 0.99"),
    (dict(t_anneal=0.3), "--t_anneal 0.3 belongs to --t_schedule anneal, got uniform"),
    (dict(distill="vsd"), "--distill needs one of sds, csd, nfsd, sdi, ism, hifa, got 'vsd'"),
    (dict(prediction_type="v"), "--prediction_type needs one of epsilon, v_prediction, got 'v'"),
    (dict(cfg_rescale=1.5), "--cfg_rescale needs a value from 0 to 1, got 1.5"),
    (
        dict(distill="nfsd", perpneg=True),
        "--perpneg does not go with --distill nfsd, which guides by a formula of its own: drop one",
    ),
    (dict(distill="nfsd", cfg_rescale=0.7), "--cfg_rescale 0.7 does not go with --distill nfsd"),
    (dict(distill="csd", cfg_rescale=0.7), "--cfg_rescale 0.7 does not go with --distill csd"),
    (dict(iters=0), "--iters needs at least 1, got 0"),
    (dict(lr=0.0), "--lr needs more than 0, got 0.0"),
    (dict(lr=float("nan")), "--lr needs finite numbers, got nan"),
    (dict(latent_iter_ratio=1.5), "--latent_iter_ratio needs a value from 0 to 1, got 1.5"),
    (dict(negative_w=1.0), "--negative_w needs at most 0, got 1.0"),
    (dict(level_dim=3), "--level_dim needs one of 1, 2, 4, 8, got 3"),
    (dict(occupancy_resolution=100), "--occupancy_resolution needs a power of two from 4 to 1024, got 100"),
    (dict(occupancy_resolution=2048), "--occupancy_resolution needs a value from 4 to 1024, got 2048"),
    (dict(desired_resolution=8), f"{FINEST} 16 (--base_resolution) to 4194304, got 8 * 1 = 8"),
    (dict(desired_resolution=10**7), f"{FINEST} 16 (--base_resolution) to 4194304, got 10000000 * 1 = 10000000"),
    (dict(bound=0.001), f"{FINEST} 16 (--base_resolution) to 4194304, got 2048 * 0.001 = 2"),
    (dict(bound=1e4), f"{FINEST} 16 (--base_resolution) to 4194304, got 2048 * 10000 = 20480000"),
    (dict(bound=1e6), "--bound needs more than 0 and at most 32768, got 1000000.0"),
    (dict(bound=0.0), "--bound needs more than 0 and at most 32768, got 0.0"),
    (dict(ema_decay=1.0), "--ema_decay needs at least 0 and less than 1, got 1.0"),
    (dict(angle_front=0.0), "--angle_front needs more than 0 and at most 180, got 0.0"),
    (dict(decimate_target=1), "--decimate_target needs at least 4 faces, or 0 for all of them, got 1"),
    (dict(decimate_target=3), "--decimate_target needs at least 4 faces, or 0 for all of them, got 3"),
    (dict(lambda_tv=1.0, backbone="vanilla"), "--lambda_tv 1.0 needs --backbone grid, got vanilla"),
    (dict(lambda_wd=0.5, backbone="vanilla"), "--lambda_wd 0.5 needs --backbone grid, got vanilla"),
    (dict(device="cuda:1"), "--device cuda:1 needs a GPU that torch can use, got none: use --device cpu"),
    (dict(guidance_device="cuda"), "--guidance_device cuda needs a GPU that torch can use, got none"),
    (dict(guidance_device="auto"), "--guidance_device needs cpu, cuda or cuda:<n>, got 'auto'"),
    (dict(exp_start_iter=10, iters=10), "--exp_start_iter needs a step before the last one of the schedules (10)"),
    (dict(backbone="mlp"), "--backbone needs one of grid, grid_tcnn, vanilla, grid_taichi, got 'mlp'"),
    (dict(backbone="grid_tcnn"), "--backbone grid_tcnn needs a GPU that torch can use, got none: use --backbone grid"),
    (dict(backbone="grid_tcnn", lambda_tv=1.0), "--lambda_tv 1.0 needs --backbone grid, got grid_tcnn"),
    (dict(backbone="grid_tcnn", hidden_dim=48), "--backbone grid_tcnn needs --hidden_dim 16, 32, 64, 128, got 48"),
    (dict(backbone="grid_tcnn", num_layers=1), "--backbone grid_tcnn needs --num_layers 2 or more, got 1"),
    (
        dict(backbone="grid_tcnn", normal_mode="analytic"),
        "--backbone grid_tcnn needs --normal_mode finite, got analytic",
    ),
    (dict(backbone="grid_tcnn", desired_resolution=8), f"{FINEST} 16 (--base_resolution) to 4194304, got 8"),
    (dict(guidance=("clip",)), "--guidance clip is not supported yet: use SD, IF or toybox"),
    (dict(guidance=("SD", "SD")), "--guidance needs different models, got SD SD"),
    (dict(device="gpu"), "--device needs auto, cpu, cuda or cuda:<n>, got 'gpu'"),
    (dict(text=" "), "--text needs what to make in words, e.g. \"a frog\", got ' '"),
    (dict(hf_key=""), "--hf_key needs a repo id, a diffusers folder or a file, got ''"),
    (dict(workspace=""), "--workspace needs the name of a folder"),
    (dict(ckpt=""), "--ckpt needs latest"),
]


@pytest.mark.parametrize(
    "values, message", BAD_VALUES, ids=[next(iter(v)) + f"-{i}" for i, (v, _) in enumerate(BAD_VALUES)]
)
def test_bad_value_is_one_line_that_says_what_came(monkeypatch, values, message):
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device: False)
    with pytest.raises(ValueError) as error:
        validate(set_options(**values))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_tiny_cuda_nn_is_asked_for_where_only_it_is_missing(monkeypatch):
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device: True)
    found, find_spec = [], importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (found or None) if name == "tinycudann" else find_spec(name)
    )
    with pytest.raises(ValueError, match="needs tiny-cuda-nn, which is not installed: pip install .*--backbone grid$"):
        validate(set_options(backbone="grid_tcnn"))
    found.append("here")
    validate(set_options(backbone="grid_tcnn"))


@pytest.mark.parametrize(
    "values",
    [
        dict(bound=32768.0, desired_resolution=128),  # 16 cascades, and a finest level of 2^22 cells
        dict(bound=1e4, backbone="vanilla"),  # no levels
        dict(bound=0.01, base_resolution=2),
        dict(distill="csd", perpneg=True),
        dict(distill="ism", cfg_rescale=0.7),
        dict(decimate_target=4),
        dict(decimate_target=-1),
        dict(lambda_tv=1.0, lambda_wd=1.0),
        dict(ema_decay=0.0),
        dict(angle_front=180.0),
        dict(device="cuda:1"),
        dict(device="cpu", guidance_device="cuda:1"),
    ],
    ids=str,
)
def test_value_at_the_edge_of_what_works_is_taken(monkeypatch, values):
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device: True)
    validate(set_options(**values))


def test_spelling_is_what_the_user_types():
    assert (spelling("O2"), spelling("radius_range")) == ("-O2", "--radius_range")
