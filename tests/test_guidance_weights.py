import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from guidance import weights
from tiny_diffusion import save_pipeline

ROOT = Path(__file__).parent.parent
FILES = [
    *weights.CONFIGS,
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    *(f"{part}/{name}" for part, names in weights.WEIGHTS.items() for name in names),
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "v2-1_512-ema-pruned.ckpt",
    "safety_checker/model.safetensors",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in memory: hub[repo] is what asking for it raises, or its files with their sizes."""
    import huggingface_hub

    repos, asked = {}, []
    file = namedtuple("File", "rfilename size")

    def model_info(self, repo, **options):
        asked.append(repo)
        if isinstance(repos[repo], BaseException):
            raise repos[repo]
        return namedtuple("Info", "siblings")([file(name, size) for name, size in repos[repo].items()])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    repos["asked"] = asked
    return repos


def http_error(kind):
    """An error of the hub's client without the response it is made from, whose library changes between versions."""
    return kind.__new__(kind)


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
    chosen, variants = weights.choose_files(FILES)
    assert variants == {"unet": None, "vae": None, "text_encoder": None}
    assert sorted(name for name in chosen if name.endswith((".safetensors", ".bin", ".ckpt"))) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt"} <= set(chosen)


def test_half_precision_takes_the_fp16_variant_where_there_is_one():
    chosen, variants = weights.choose_files(FILES, half=True)
    assert variants == {"unet": "fp16", "vae": None, "text_encoder": None}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in chosen
    assert "unet/diffusion_pytorch_model.safetensors" not in chosen


def test_pickled_weights_serve_where_there_are_no_others():
    chosen, _ = weights.choose_files([name for name in FILES if not name.endswith(".safetensors")])
    assert {"text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin"} <= set(chosen)


def test_missing_files_are_named():
    with pytest.raises(ValueError, match="lacks model_index.json, unet/diffusion_pytorch_model.safetensors, tokenizer"):
        weights.choose_files(
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


def test_a_folder_that_does_not_exist_and_a_file_are_not_taken_for_repo_ids(tmp_path):
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    with pytest.raises(ValueError, match="nowhere: is not a folder"):
        weights.locate([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="is not a folder, save a single file as a diffusers folder first"):
        weights.locate([str(single)])


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


def test_every_repository_is_tried_and_its_reason_told(hub):
    from huggingface_hub import errors

    hub["a/gone"] = http_error(errors.RepositoryNotFoundError)
    hub["a/gated"] = http_error(errors.GatedRepoError)
    hub["a/empty"] = {"README.md": 10}
    with pytest.raises(ValueError) as caught:
        weights.locate(["a/gone", "a/gated", "a/empty"])
    message = str(caught.value)
    assert "a/gone: not found" in message and "a/gated: gated" in message and "`hf auth login`" in message
    assert "a/empty: lacks model_index.json" in message and "\n" not in message


def test_an_unreachable_hub_is_asked_once(hub):
    hub["a/one"] = hub["a/two"] = ConnectionError("refused")
    with pytest.raises(ValueError, match="a/one: hub unreachable; a/two: hub unreachable"):
        weights.locate(["a/one", "a/two"])
    assert hub["asked"] == ["a/one"]


def test_a_download_that_does_not_fit_the_disk_is_refused_before_it_starts(hub):
    hub["a/huge"] = dict.fromkeys(FILES, 10**18)
    with pytest.raises(ValueError, match=r"a/huge: not enough disk, needs \d+\.\d GB"):
        weights.locate(["a/huge"])


def test_the_second_mirror_serves_when_the_first_is_gone(hub, folder, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    hub["a/gone"] = http_error(errors.RepositoryNotFoundError)
    hub["a/mirror"] = dict.fromkeys(FILES, 1)
    wanted = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: wanted.update(options) or folder)
    found = weights.locate(["a/gone", "a/mirror"])
    assert found.source == "a/mirror" and found.folder == Path(folder)
    assert "v2-1_512-ema-pruned.ckpt" not in wanted["allow_patterns"]


def test_a_malformed_id_is_said_to_be_one(hub):
    from huggingface_hub import errors

    hub["a b/c"] = errors.HFValidationError("bad")
    with pytest.raises(ValueError, match="a b/c: neither a folder nor a valid repo id"):
        weights.locate(["a b/c"])


def test_choosing_a_guidance_does_not_load_torch():
    code = "import sys, guidance.weights as w; w.cached('me/mine'); print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"
