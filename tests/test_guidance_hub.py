"""guidance/hub.py against a hub on this machine: what is downloaded, what resumes, and every failure in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guidance import hub, weights
from mock_hub import Repo, mock_hub
from tiny_diffusion import save_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
BROKE_OFF = "the download broke off: the same command keeps its whole files and begins the broken one again"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a tiny pipeline, and more that must not be downloaded."""
    folder = Path(save_pipeline(tmp_path_factory.mktemp("pipeline")))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return files | {"safety_checker/model.safetensors": b"x" * 1000, "v2-1_512-ema-pruned.ckpt": b"x" * 1000}


@pytest.fixture
def server(monkeypatch, tmp_path):
    with mock_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


def refusal(*sources):
    """The one line in which `locate` refuses, without what to do instead."""
    with pytest.raises(ValueError) as caught:
        weights.locate(list(sources))
    message = str(caught.value)
    assert "\n" not in message and all(source in message for source in sources)
    assert "--guidance toybox" in message and "--hf_key" in message
    return re.search(r"\((.*)\);", message)[1]


def test_only_what_is_used_is_downloaded_and_once(server, files):
    server.repos["a/model"] = Repo(files)
    found = weights.locate(["a/model"])
    assert found.source == "a/model" and (found.folder / "unet" / "config.json").is_file()
    assert "safety_checker/model.safetensors" in files and UNET in files
    assert set(server.downloaded()) == set(files) - {"safety_checker/model.safetensors", "v2-1_512-ema-pruned.ckpt"}
    server.asked.clear()
    assert weights.locate(["a/model"]) == found and not server.asked


def test_the_fp16_variant_is_downloaded_instead_where_there_is_one(server, files):
    half = {
        name.replace("model.safetensors", "model.fp16.safetensors"): content
        for name, content in files.items()
        if name.startswith("unet/") and name.endswith(".safetensors")
    }
    server.repos["a/model"] = Repo(files | half)
    assert weights.locate(["a/model"], half=True).variants == {"unet": "fp16", "vae": None, "text_encoder": None}
    assert set(half) <= set(server.downloaded())
    assert UNET not in server.downloaded()


def test_the_second_mirror_serves_when_the_first_is_gone(server, files):
    server.repos["a/mirror"] = Repo(files)
    assert weights.locate(["a/gone", "a/mirror"]).source == "a/mirror"


def test_the_users_token_is_sent_and_the_lack_of_one_said(server, files, monkeypatch):
    server.repos["a/private"] = Repo(files, token="hf_secret")
    assert "a/private: gated, accept its licence on its page and run `hf auth login`" in refusal("a/private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert (
        "a/private: needs a token or refuses the one it got: log in with `hf auth login`, or mend HF_TOKEN"
        in refusal("a/private")
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert weights.locate(["a/private"]).source == "a/private"


@pytest.mark.parametrize(
    "repo, reason",
    [
        (None, "not found"),
        (Repo(status=401), "needs a token or refuses the one it got: log in with `hf auth login`, or mend HF_TOKEN"),
        (Repo(status=403, error="GatedRepo"), "gated, accept its licence on its page"),
        (Repo(status=403), "forbidden: the token may not read it"),
        (Repo(status=500), "the hub answers 500, which is its own fault: try again later"),
        (Repo({"README.md": b"hello"}), "lacks model_index.json, scheduler/scheduler_config.json"),
    ],
)
def test_every_failure_is_told_in_a_few_words(server, repo, reason, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if repo:
        server.repos["a/broken"] = repo
    assert refusal("a/broken").startswith(f"a/broken: {reason}")


def test_every_repository_is_tried_and_its_reason_told(server):
    server.repos["a/gated"] = Repo(status=403, error="GatedRepo")
    server.repos["a/empty"] = Repo({"README.md": b"hello"})
    said = refusal("a/gone", "a/gated", "a/empty")
    assert "a/gone: not found" in said and "a/gated: gated" in said and "a/empty: lacks" in said


def test_a_file_that_is_listed_and_missing_is_said_to_be(server, files):
    server.repos["a/model"] = Repo(files, missing={UNET})
    assert "a/model: a file that it lists is missing" in refusal("a/model")


def test_another_family_is_refused_before_its_weights_are_downloaded(server, files):
    index = files["model_index.json"].replace(b"StableDiffusionPipeline", b"StableDiffusionXLPipeline")
    server.repos["a/sdxl"] = Repo(files | {"model_index.json": index})
    assert "is a StableDiffusionXLPipeline: not supported yet, only Stable Diffusion 1 and 2" in refusal("a/sdxl")
    assert server.downloaded() == ["model_index.json"]


@pytest.fixture
def impatient(monkeypatch):
    """The hub's client, in small pieces (what is not a whole one is lost), and without its pauses."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)


def test_a_line_that_breaks_for_a_moment_costs_nothing(server, files, impatient):
    server.repos["a/model"] = Repo(files, cut={UNET: [1000]})
    found = weights.locate(["a/model"])
    assert (found.folder / UNET).read_bytes() == files[UNET]
    assert ranges(server, UNET) == [None, "bytes=1000-"]


def test_after_a_download_that_broke_off_whole_files_are_kept_and_the_broken_one_begins_again(
    server, files, impatient, tmp_path
):
    server.repos["a/model"] = Repo(files, cut={UNET: [1000, 0, 0, 0, 0, 0]})  # the client gives up after five more
    assert refusal("a/model") == f"a/model: {BROKE_OFF}"
    kept = [path.read_bytes() for path in (tmp_path / "hub").glob("models--a--model/blobs/*")]
    assert files["model_index.json"] in kept and files[UNET] not in kept
    server.asked.clear()
    assert (weights.locate(["a/model"]).folder / UNET).read_bytes() == files[UNET]
    assert ranges(server, UNET) == [None]
    assert not [name for name in server.downloaded() if files[name] in kept]


def test_a_download_by_xet_that_broke_off_is_said_to_be_and_the_next_mirror_is_tried(server, files, monkeypatch):
    def fail(**_):
        raise RuntimeError("Task error: File reconstruction error: CAS Client Error: error sending request")

    monkeypatch.setattr("huggingface_hub.file_download.xet_get", fail)
    monkeypatch.setattr("huggingface_hub.file_download.is_xet_available", lambda: True)
    server.repos["a/model"] = Repo(files, xet={UNET})
    assert refusal("a/model") == f"a/model: {BROKE_OFF}"
    server.repos["a/mirror"] = Repo(files)
    assert weights.locate(["a/model", "a/mirror"]).source == "a/mirror"


def ranges(server, name):
    """What parts of a file were asked for."""
    return [h.get("range") for method, path, h in server.asked if method == "GET" and path.endswith(name)]


@pytest.mark.parametrize("kept", [4, -1])
def test_a_cached_file_that_was_cut_short_comes_anew_when_what_the_message_names_is_deleted(server, files, kept):
    server.repos["a/model"] = Repo(files)
    cached = weights.locate(["a/model"]).folder / UNET
    cached.write_bytes(files[UNET][:kept])
    Path(re.search(r"delete (\S+), get it anew", refusal("a/model"))[1]).unlink()
    assert (weights.locate(["a/model"]).folder / UNET).read_bytes() == files[UNET]


def test_a_download_that_does_not_fit_the_disk_is_refused_before_it_starts(server, files):
    sizes = {UNET: 10**18}
    server.repos["a/huge"] = Repo(files, sizes=sizes)
    assert re.match(r"a/huge: not enough disk, needs 1000000000\.\d GB, \d+\.\d GB are free in /", refusal("a/huge"))
    assert server.downloaded() == ["model_index.json"]


def test_an_unreachable_hub_is_asked_once(server, monkeypatch):
    asked = []
    original = hub.download
    monkeypatch.setattr(hub, "download", lambda *args: asked.append(args[0]) or original(*args))
    server.server.shutdown()
    server.server.server_close()
    assert refusal("a/one", "a/two") == "a/one: hub unreachable; a/two: hub unreachable"
    assert asked == ["a/one"]


def test_a_malformed_id_is_said_to_be_one(server):
    assert refusal("a b/c") == "a b/c: neither a folder nor a valid repo id"
