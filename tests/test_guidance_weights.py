import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guidance import hub, layout, weights
from tiny_diffusion import save_pipeline

ROOT = Path(__file__).parent.parent
FILES = [
    *layout.STABLE_DIFFUSION.configs,
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    *(f"{part}/{name}" for part, names in layout.STABLE_DIFFUSION.weights.items() for name in names),
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "v2-1_512-ema-pruned.ckpt",
    "safety_checker/model.safetensors",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def run(code, **environment):
    """Runs Python apart, since the hub's client reads its environment at import."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


def test_every_version_has_mirrors_of_that_version_only():
    assert set(weights.SOURCES) == {"1.5", "2.0", "2.1"}
    for version, repos in weights.SOURCES.items():
        tail = {"1.5": "v1-5", "2.0": "diffusion-2-base", "2.1": "2-1-base"}[version]
        assert len(repos) >= 2 and all(repo.endswith(tail) for repo in repos)


def test_hf_key_replaces_the_mirrors():
    assert weights.resolve("2.1", "me/mine") == ["me/mine"]
    assert weights.resolve("2.1") == weights.SOURCES["2.1"]
    with pytest.raises(ValueError, match="--sd_version needs one of 1.5, 2.0, 2.1, got 3"):
        weights.resolve("3")


def test_chosen_files_are_one_set_of_weights_and_no_more():
    chosen, variants = layout.choose_files(FILES)
    assert variants == {"unet": None, "vae": None, "text_encoder": None}
    assert sorted(name for name in chosen if name.endswith((".safetensors", ".bin", ".ckpt"))) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt"} <= set(chosen)


def test_half_precision_takes_the_fp16_variant_where_there_is_one():
    chosen, variants = layout.choose_files(FILES, half=True)
    assert variants == {"unet": "fp16", "vae": None, "text_encoder": None}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in chosen
    assert "unet/diffusion_pytorch_model.safetensors" not in chosen


def test_pickled_weights_serve_where_there_are_no_others():
    chosen, _ = layout.choose_files([name for name in FILES if not name.endswith(".safetensors")])
    assert {"text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin"} <= set(chosen)


def test_missing_files_are_named():
    with pytest.raises(ValueError, match="lacks model_index.json, unet/diffusion_pytorch_model.safetensors, tokenizer"):
        layout.choose_files(
            name for name in FILES if not name.startswith(("model_index", "unet/diffusion", "tokenizer"))
        )


def test_a_complete_folder_is_found_without_a_network(folder):
    found = weights.cached(folder)
    assert found.folder == Path(folder) and found.source == folder


def test_an_incomplete_folder_is_refused_with_what_it_lacks(folder, tmp_path):
    (tmp_path / "half").mkdir()
    assert weights.cached(str(tmp_path / "half")) is None
    with pytest.raises(ValueError, match="half: lacks model_index.json"):
        weights.locate([str(tmp_path / "half")])


def test_a_folder_that_does_not_exist_is_not_taken_for_a_repo_id(tmp_path):
    with pytest.raises(ValueError, match="nowhere: is neither a folder nor a file"):
        weights.locate([str(tmp_path / "nowhere")])


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_named_before_it_is_loaded(folder, tmp_path, kept):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    cut = copy / "unet" / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:kept])
    assert weights.cached(str(copy)) is None
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors.*: delete .*/unet/") as caught:
        weights.locate([str(copy)])
    assert "cut short" in str(caught.value) or "can be read" in str(caught.value)


def test_an_index_that_was_cut_short_is_said_to_be(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model_index.json").write_text('{"_class_name": "Stable')
    with pytest.raises(ValueError, match="model_index.json that is no JSON"):
        weights.locate([str(copy)])


@pytest.mark.parametrize(
    "name, parts",
    [
        ("StableDiffusionXLPipeline", {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}),
        ("StableDiffusion3Pipeline", {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModelWithProjection"}),
        ("FluxPipeline", {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "transformer": "Flux"}),
    ],
)
def test_another_family_is_said_to_be_one(tmp_path, name, parts):
    index = {"_class_name": name} | {part: ["diffusers", kind] for part, kind in parts.items()}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"is a {name}: not supported yet, only Stable Diffusion 1 and 2"):
        weights.locate([str(tmp_path)])


def test_with_local_files_only_the_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr(hub, "download", lambda *args: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="a/b: is not completely in the cache, and --local_files_only downloads noth"):
        weights.locate(["a/b", "a/c"], local_files_only=True)


def test_weights_in_the_cache_are_found_and_half_a_cache_is_not(folder, tmp_path):
    repo = tmp_path / "hub" / "models--me--mine"
    commit = "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    snapshot = repo / "snapshots" / commit
    snapshot.symlink_to(folder, target_is_directory=True)
    code = "from guidance.weights import cached, locate; print(cached('me/mine') and locate(['x/y', 'me/mine']).source)"
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert run(code, **environment).stdout.strip() == "me/mine"
    snapshot.unlink()
    snapshot.mkdir()
    (snapshot / "model_index.json").write_text("{}")
    assert run(code, **environment).stdout.strip() == "None"


@pytest.mark.parametrize(
    "environment, reason",
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub unreachable")],
)
def test_an_unreachable_hub_is_one_line_that_names_every_id(tmp_path, environment, reason):
    code = (
        "from guidance.weights import locate, resolve\n"
        "try:\n    locate(resolve('2.1'))\n"
        "except ValueError as error:\n    print(error)"
    )
    start = time.monotonic()
    result = run(code, HF_HOME=str(tmp_path), **environment)
    lines = (result.stdout + result.stderr).splitlines()
    assert len(lines) == 1, lines
    assert all(source in lines[0] for source in weights.SOURCES["2.1"]) and reason in lines[0]
    assert "--guidance toybox" in lines[0] and "--hf_key" in lines[0]
    assert time.monotonic() - start < 15  # the client's own retries would take 23 s per file


def test_choosing_a_guidance_does_not_load_torch():
    code = "import sys, guidance.weights as w; w.cached('me/mine'); print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"
