"""A GPU is one that torch can use: the driver sees it, and is new enough."""

from __future__ import annotations

import ctypes

import pytest
import torch

from nerf import driver, select_guidance

NOT_FOUND, NO_DEVICE = None, 100  # no library; what cuInit returns where there is no GPU


def install(monkeypatch, *, init=0, gpus=1, version=13000):
    """A driver that answers so; init NOT_FOUND: none."""

    class Driver:
        def cuInit(self, flags):
            return init

        def cuDeviceGetCount(self, count):
            count._obj.value = gpus
            return 0

        def cuDriverGetVersion(self, found):
            found._obj.value = version
            return 0

    def load(name):
        if init is NOT_FOUND:
            raise OSError(f"{name}: cannot open shared object file")
        return Driver()

    monkeypatch.setattr(ctypes, "CDLL", load)


@pytest.mark.parametrize(
    "answers, expected",
    [
        (dict(version=13020), 13),
        (dict(version=12080, gpus=2), 12),
        (dict(init=NOT_FOUND), 0),
        (dict(init=NO_DEVICE), 0),
        (dict(gpus=0), 0),
    ],
    ids=str,
)
def test_the_driver_is_asked_for_its_cuda_and_its_gpus(monkeypatch, answers, expected):
    install(monkeypatch, **answers)
    assert driver.driver_cuda() == expected


def test_what_torch_was_built_for_is_what_torch_says():
    built_for = torch.version.cuda
    assert driver.torch_cuda() == (int(built_for.split(".")[0]) if built_for else 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has a GPU here")
def test_without_a_gpu_there_is_no_accelerator():
    assert not select_guidance.has_accelerator()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU here")
def test_with_a_gpu_there_is_an_accelerator():
    assert select_guidance.has_accelerator()


@pytest.mark.parametrize(
    "built_for, runs, visible, device, expected",
    [
        (13, 13, None, "auto", True),
        (12, 13, "0", "cuda:1", True),
        (13, 12, None, "auto", False),  # the driver is too old
        (13, 0, None, "auto", False),  # no GPU
        (0, 13, None, "cuda", False),  # torch for the CPU
        (13, 13, None, "cpu", False),
        (13, 13, "", "cuda", False),
        (13, 13, "-1", "auto", False),
    ],
)
def test_accelerator_is_one_that_torch_can_use(monkeypatch, built_for, runs, visible, device, expected):
    monkeypatch.setattr(driver, "torch_cuda", lambda: built_for)
    monkeypatch.setattr(driver, "driver_cuda", lambda: runs)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert select_guidance.has_accelerator(device) is expected
