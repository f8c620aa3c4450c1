"""Adan against the paper's algorithm in plain Python, the moving average against its recurrence, and exact resume."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from nerf.optim import EMA, Adan, get_optimizer, resume, scale_lr


def adan_by_hand(start, gradients, lr, betas, eps, weight_decay, max_norm):
    """Algorithm 1 of arXiv:2208.06677 on Python floats, bias-corrected; `gradients` is a list of lists (or None)."""
    theta = [list(values) for values in start]
    memory = [None] * len(start)
    for step_gradients in gradients:
        flat = [g for grads in step_gradients if grads is not None for g in grads]
        norm = math.sqrt(sum(g * g for g in flat))
        scale = min(1.0, max_norm / norm) if max_norm else 1.0
        for i, grads in enumerate(step_gradients):
            if grads is None:
                continue
            if memory[i] is None:
                memory[i] = (0, [(0.0, 0.0, 0.0, g * scale) for g in grads])
            k, old = memory[i][0] + 1, memory[i][1]
            new = []
            for j, (g, (m, v, n, before)) in enumerate(zip(grads, old, strict=True)):
                g *= scale
                m = betas[0] * m + (1 - betas[0]) * g
                v = betas[1] * v + (1 - betas[1]) * (g - before)
                n = betas[2] * n + (1 - betas[2]) * (g + betas[1] * (g - before)) ** 2
                m_hat, v_hat, n_hat = (x / (1 - b**k) for x, b in zip((m, v, n), betas, strict=True))
                theta[i][j] -= lr * (m_hat + betas[1] * v_hat) / (math.sqrt(n_hat) + eps)
                theta[i][j] /= 1 + lr * weight_decay
                new.append((m, v, n, g))
            memory[i] = (k, new)
    return theta


def run(optimizer, parameters, gradients):
    for step_gradients in gradients:
        for p, g in zip(parameters, step_gradients, strict=True):
            p.grad = None if g is None else g.to(p).reshape(p.shape)
        optimizer.step()


def random_gradients(steps, sizes, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [[scale * torch.randn(size, generator=generator) for size in sizes] for _ in range(steps)]


@pytest.mark.parametrize("max_norm", [0.0, 5.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adan_follows_the_algorithm_of_the_paper(device, weight_decay, max_norm):
    sizes = (31, 1, 5)
    gradients = random_gradients(12, sizes, scale=2.0)  # norm about 12: clipped where asked
    start = random_gradients(1, sizes, seed=1)[0]
    settings = {"lr": 0.02, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": weight_decay}
    parameters = [torch.nn.Parameter(s.double().to(device)) for s in start]
    run(Adan(parameters, **settings, max_grad_norm=max_norm), parameters, gradients)
    lists = [[g.double().tolist() for g in grads] for grads in gradients]
    expected = adan_by_hand([s.double().tolist() for s in start], lists, **settings, max_norm=max_norm)
    for p, values in zip(parameters, expected, strict=True):
        assert_close(p.detach().cpu(), torch.tensor(values, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_a_parameter_without_a_gradient_rests_and_its_clock_too(device):
    gradients = random_gradients(6, (3, 3))
    for i in (0, 1, 4):
        gradients[i][1] = None  # the background network has a gradient in some of the steps only
    start = random_gradients(1, (3, 3), seed=1)[0]
    parameters = [torch.nn.Parameter(s.double().to(device)) for s in start]
    run(Adan(parameters, lr=0.1), parameters, gradients)
    lists = [[None if g is None else g.double().tolist() for g in grads] for grads in gradients]
    by_hand = adan_by_hand([s.double().tolist() for s in start], lists, 0.1, (0.98, 0.92, 0.99), 1e-8, 0.0, 0.0)
    for p, values in zip(parameters, by_hand, strict=True):
        assert_close(p.detach().cpu(), torch.tensor(values, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_parameters_that_are_not_contiguous_or_empty_are_updated_alike():
    gradients = random_gradients(3, (12, 0))
    dense, turned = torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(4, 3).T)
    empty = [torch.nn.Parameter(torch.zeros(0, 2)) for _ in range(2)]
    assert not turned.is_contiguous()
    run(Adan([dense, empty[0]], lr=0.1), [dense, empty[0]], gradients)
    run(Adan([turned, empty[1]], lr=0.1), [turned, empty[1]], gradients)
    assert_close(turned.detach(), dense.detach())


def test_groups_keep_their_own_learning_rates():
    slow, fast = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = Adan([{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.1}])
    run(optimizer, [slow, fast], [[torch.ones(1), torch.ones(1)]])
    assert_close(fast.detach(), 10 * slow.detach())


def test_adan_finds_the_minimum_of_a_bowl():
    p = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Adan([p], lr=0.05)
    for step in range(1000):
        scale_lr(optimizer, 1 - step / 1000)
        optimizer.zero_grad()
        ((p - torch.tensor([1.0, 0.5])) ** 2 * torch.tensor([1.0, 100.0])).sum().backward()
        optimizer.step()
    assert_close(p.detach(), torch.tensor([1.0, 0.5]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0, 0.9)}, {"eps": math.nan}, {"max_grad_norm": -1}])
def test_adan_refuses_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Adan([torch.nn.Parameter(torch.zeros(1))], **wrong)


@pytest.mark.parametrize("name", ["adan", "adam"])
def test_a_resumed_optimizer_continues_bit_for_bit(device, name, tmp_path):
    gradients = random_gradients(9, (257, 31))
    gradients[2][1] = None

    def fresh():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(n, device=device)) for n in (257, 31)]
        return parameters, get_optimizer(name, [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:]}])

    unbroken, optimizer = fresh()
    run(optimizer, unbroken, gradients)

    before, optimizer = fresh()
    scale_lr(optimizer, 1.0)
    run(optimizer, before, gradients[:5])
    torch.save({"p": [p.detach() for p in before], "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)  # tensors and plain types only
    after, optimizer = fresh()
    optimizer.load_state_dict(state["optimizer"])
    with torch.no_grad():
        for p, saved in zip(after, state["p"], strict=True):
            p.copy_(saved)
    run(optimizer, after, gradients[5:])
    assert all(torch.equal(a, b) for a, b in zip(unbroken, after, strict=True))


@pytest.mark.parametrize("name", ["adan", "adam"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_a_gradient_that_is_not_finite_changes_nothing(device, name, value, first):
    """Of any parameter: one bad number in one group rests them all. What follows is finite again."""
    gradients = random_gradients(4, (257, 31))
    parameters = [torch.nn.Parameter(torch.ones(n, device=device)) for n in (257, 31)]
    optimizer = get_optimizer(name, [{"params": [p], "lr": 0.1} for p in parameters])
    run(optimizer, parameters, [] if first else gradients[:2])
    before = copy.deepcopy([parameters, optimizer.state_dict()["state"]])
    broken = [grad.clone() for grad in gradients[2]]
    broken[1][7] = value
    run(optimizer, parameters, [broken])
    assert optimizer.found_inf == 1
    assert all(torch.equal(p, was) for p, was in zip(parameters, before[0], strict=True))
    for number, kept in before[1].items():
        memory = optimizer.state_dict()["state"][number]
        assert all(torch.equal(memory[key], was) for key, was in kept.items() if torch.is_tensor(was))
    run(optimizer, parameters, gradients[3:])
    assert optimizer.found_inf == 0
    assert all(p.isfinite().all() and not torch.equal(p, was) for p, was in zip(parameters, before[0], strict=True))


@pytest.mark.parametrize("name", ["adan", "adam"])
def test_a_first_step_that_runs_out_of_memory_can_be_taken_again(monkeypatch, name):
    one, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    tight, roomy = (get_optimizer(name, [{"params": [p], "lr": 0.1}]) for p in (one, other))
    one.grad, other.grad = torch.full((3,), 0.5), torch.full((3,), 0.5)
    zeros_like, asked = torch.zeros_like, []

    def runs_out(*args, **options):
        asked.append(args)
        if len(asked) == 2:  # the first average has its memory
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros_like(*args, **options)

    monkeypatch.setattr(torch, "zeros_like", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        tight.step()
    for _ in range(2):
        tight.step(), roomy.step()
    assert torch.equal(one, other) and not torch.equal(one, torch.ones(3))


def test_adam_has_the_settings_of_stable_dreamfusion(device):
    gradients = [g[0].double() for g in random_gradients(8, (5,))]
    p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64, device=device))
    run(get_optimizer("adam", [{"params": [p], "lr": 0.1}]), [p], [[g] for g in gradients])
    theta, m, v = torch.zeros(5).double(), torch.zeros(5).double(), torch.zeros(5).double()
    for k, g in enumerate(gradients, 1):  # Kingma and Ba, algorithm 1
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        theta = theta - 0.1 * (m / (1 - 0.9**k)) / ((v / (1 - 0.99**k)).sqrt() + 1e-15)
    assert_close(p.detach().cpu(), theta)


def test_an_unknown_optimizer_is_refused_by_its_option():
    with pytest.raises(ValueError, match="--optim needs one of adan, adam, got sgd"):
        get_optimizer("sgd", [])


def test_scaling_starts_from_the_first_rate_every_time_and_after_a_resume():
    optimizer = Adan([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2.0}])
    scale_lr(optimizer, 0.5)
    resumed = Adan([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2.0}])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for o in (optimizer, resumed):
        scale_lr(o, 0.25)
        assert o.param_groups[0]["lr"] == 0.5


def test_a_resumed_optimizer_has_the_rates_it_was_made_with():
    optimizer = Adan([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2.0}])
    scale_lr(optimizer, 0.5)
    faster = Adan([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 8.0}])
    resume(faster, copy.deepcopy(optimizer.state_dict()))
    scale_lr(faster, 0.5)
    assert faster.param_groups[0]["lr"] == 4.0


def module(value=0.0):
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def test_the_average_follows_its_recurrence():
    layer, expected = module(1.0), 1.0
    ema = EMA(layer, 0.9)
    for k in range(200):
        torch.nn.init.constant_(layer.weight, math.sin(k))
        ema.update()
        keep = min(0.9, (1 + k) / (10 + k))
        expected = keep * expected + (1 - keep) * math.sin(k)
    with ema.swap():
        assert_close(
            layer.weight.detach(), torch.full((2, 2), expected), rtol=1e-5, atol=1e-6
        )  # float32 over 200 steps


def test_the_average_is_not_biased_towards_the_start():
    layer = module(100.0)
    ema = EMA(layer, 0.999)
    for _ in range(50):
        torch.nn.init.constant_(layer.weight, 1.0)
        ema.update()
    with ema.swap():
        # A fixed 0.999 would still hold 95 of the first 100; the warm-up holds prod (1+k)/(10+k) < 1e-6 of it.
        assert_close(layer.weight.detach(), torch.ones(2, 2), rtol=1e-4, atol=0)


def test_swap_gives_the_own_weights_back_even_after_an_error():
    layer = module(1.0)
    ema = EMA(layer, 0.5)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    ema.update()
    own = layer.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), ema.swap():
        assert not torch.equal(layer.weight, own)
        raise KeyboardInterrupt
    assert torch.equal(layer.weight, own)


def test_swap_marks_the_weights_as_changed():
    layer = module(1.0)
    ema = EMA(layer)
    version = layer.weight._version
    with ema.swap():
        assert layer.weight._version > version  # whoever caches by version must not serve the old weights


def test_a_resumed_average_continues_bit_for_bit(tmp_path):
    def advance(layer, ema, steps):
        for k in steps:
            with torch.no_grad():
                layer.weight.normal_(generator=torch.Generator().manual_seed(k))
            ema.update()

    one, two, three = (torch.nn.Linear(2, 2) for _ in range(3))
    for other in (two, three):
        other.load_state_dict(one.state_dict())
    unbroken, first, second = EMA(one), EMA(two), EMA(three)
    advance(one, unbroken, range(20))
    advance(two, first, range(7))
    torch.save(first.state_dict(), tmp_path / "ema.pt")
    second.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    advance(three, second, range(7, 20))
    with unbroken.swap(), second.swap():
        assert torch.equal(one.weight, three.weight)


def test_an_average_of_another_model_is_refused():
    with pytest.raises(ValueError, match="weight"):
        EMA(torch.nn.Linear(2, 3)).load_state_dict(EMA(torch.nn.Linear(2, 2)).state_dict())


def test_a_decay_out_of_range_is_refused_by_its_option():
    with pytest.raises(ValueError, match="--ema_decay"):
        EMA(torch.nn.Linear(1, 1), 1.0)
