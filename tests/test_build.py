"""What was typed reaches the objects."""

from __future__ import annotations

import math

import pytest
import torch

from nerf import build
from nerf.config import Config
from nerf.fields import HashGridField, VanillaField

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def configure(**options):
    return Config().updated({"text": "a frog", "num_levels": 2, "log2_hashmap_size": 4, **options})


@pytest.fixture
def made(monkeypatch):
    """The options that each guidance is made with; none is made."""
    made = []

    class Prior:
        gigabytes = 1.5

        def __init__(self, sources, **options):
            made.append(options)

        def prepare(self, text, negative):
            pass

    monkeypatch.setattr(build, "StableDiffusion", Prior)
    monkeypatch.setattr(build, "find_weights", lambda config, name, half: "somewhere")
    return made


@pytest.mark.parametrize(
    "device, has_bf16, fp16, expected",
    [
        (CUDA, True, True, "bf16"),
        (CUDA, False, True, "fp32"),  # fp16 needs its loss scaled
        (CUDA, True, False, "fp32"),
        (CPU, True, True, "bf16"),
        (CPU, False, True, "fp32"),
    ],
)
def test_half_precision_is_bf16_where_it_is_fast(monkeypatch, device, has_bf16, fp16, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if has_bf16 else (7, 5))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert build.build_precision(configure(fp16=fp16), device) == expected


@pytest.mark.parametrize("backbone, kind", [("grid", HashGridField), ("vanilla", VanillaField)])
def test_precision_and_layers_reach_every_backbone(monkeypatch, backbone, kind):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    shallow, deep = (build.build_field(configure(backbone=backbone, fp16=True, num_layers=n), CPU) for n in (2, 3))
    assert isinstance(deep, kind) and deep.mixed
    assert len(list(deep.parameters())) > len(list(shallow.parameters()))


@pytest.mark.parametrize(
    "options, expected",
    [({}, math.inf), ({"vram": 6.0}, 4.0), ({"vram_O": True}, 2.0), ({"vram_O": True, "vram": 3}, 1)],
)
def test_what_memory_there_is_reaches_the_guidance(made, options, expected):
    build.build_guidance(configure(guidance=("SD",), device="cpu", **options))
    assert [options["vram"] for options in made] == [expected]


def test_a_card_of_four_gigabytes_has_the_same_plan_whether_it_is_measured_or_typed(monkeypatch, made):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((4.0 - build.LOADED) * 1e9, 4e9))
    for options in ({}, {"vram": 4.0}):
        build.build_guidance(configure(guidance=("SD",), device="cuda", **options))
    measured, typed = (options["vram"] for options in made)
    assert measured == pytest.approx(typed)


@pytest.mark.parametrize("measured", [False, True])
def test_two_guidances_share_the_memory(monkeypatch, made, measured):
    monkeypatch.setattr(build, "DeepFloyd", build.StableDiffusion)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    free = 6.0 - build.LOADED
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((free - 1.0 * len(made)) * 1e9, 6e9))
    options = {} if measured else {"vram": 6.0}
    build.build_guidance(configure(guidance=("SD", "IF"), device="cuda", **options))
    assert [options["vram"] for options in made] == pytest.approx([4.0, 4.0 - 1.5])


def test_a_guidance_makes_room_for_every_picture_of_a_step(made):
    build.build_guidance(configure(guidance=("SD",), device="cpu", batch_size=3))
    assert [options["batch_size"] for options in made] == [3]


def test_the_guidance_has_a_gpu_and_its_memory_to_itself(monkeypatch, made):
    free = {torch.device("cuda:0"): 8.0, torch.device("cuda:1"): 24.0}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device] * 1e9, 80e9))
    for options in ({"guidance_device": "cuda:1"}, {}, {"guidance_device": "cuda:0"}):
        build.build_guidance(configure(guidance=("SD",), device="cuda", **options))
    beside = (torch.device("cuda:0"), 8.0 - build.COMING)
    assert [(options["device"], options["vram"]) for options in made] == [
        (torch.device("cuda:1"), 24.0),
        beside,
        beside,
    ]


@pytest.mark.parametrize(
    "name, gpus, message",
    [
        ("cuda", 0, "there is no cuda: torch .* sees no GPU: use cpu"),
        ("cuda:2", 2, "there is no cuda:2: torch .* the last GPU it sees is cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, name, gpus, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        build.build_device(name)


@pytest.mark.parametrize("text, mirrored", [("a red frog on a box", True), ("a red mug", False)])
def test_an_object_that_is_its_own_mirror_image_is_guided_as_one(made, text, mirrored):
    build.build_guidance(configure(guidance=("toybox",), device="cpu", text=text))
    assert [(options["views"].sided, options["views"].mirrored) for options in made] == [(True, mirrored)]


@pytest.mark.parametrize("options", [{}, {"save_guidance": True}, {"distill_space": "pixels"}])
def test_a_guidance_is_told_what_its_decoder_is_for(made, options):
    build.build_guidance(configure(guidance=("SD",), device="cpu", **options))
    asked = options.get("save_guidance", False), options.get("distill_space", "latents")
    assert [(given["pictures"], given["space"]) for given in made] == [asked]


@pytest.mark.parametrize("typed", [None, "v_prediction"])
def test_a_guidance_is_told_what_its_model_predicts(made, typed):
    build.build_guidance(configure(guidance=("SD",), device="cpu", prediction_type=typed))
    assert [given["prediction_type"] for given in made] == [typed]
