"""What the tests take for tiny-cuda-nn where there is no GPU, and what they compare it with where there is one.

Its conventions in plain torch, from its documentation and sources: flat fp32 parameters, level after level in multiples
of 8 rows, nodes at (i - 0.5) / (R - 1), no biases, an fp16 network whose gradients are scaled by 128.
"""

import itertools
import math

import torch

PRIMES = (1, 2654435761, 805459861)
LOSS_SCALE = 128.0
ALIGNED = 16  # a network has a multiple of so many inputs and outputs


def multiple(count, of):
    return -(-count // of) * of


def nodes(scale):
    """Along an axis of a level; less rounding, which would raise a whole number to the next."""
    return math.ceil(scale - 1e-4) + 1


def supports_jit_fusion():
    return True


class Module(torch.nn.Module):
    jit_fusion = False

    def __init__(self, count, limit, seed):
        super().__init__()
        values = torch.rand(count, generator=torch.Generator().manual_seed(seed))
        self.params = torch.nn.Parameter(values.mul_(2).sub_(1).mul_(limit))

    def forward(self, x):
        assert len(x), "there is no kernel for no rows"
        return self.rows(x)


class Encoding(Module):
    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        assert n_input_dims == 3 and encoding_config["otype"] == "HashGrid" and dtype == torch.float32
        assert encoding_config["interpolation"] == "Smoothstep"
        levels, features = encoding_config["n_levels"], encoding_config["n_features_per_level"]
        growth, most = encoding_config["per_level_scale"], 2 ** encoding_config["log2_hashmap_size"]
        scales = [encoding_config["base_resolution"] * growth**level - 1 for level in range(levels)]
        rows = [min(multiple(nodes(scale) ** 3, 8), most) for scale in scales]
        super().__init__(sum(rows) * features, 1e-4, seed)
        self.scales, self.offsets, self.features = scales, [0, *itertools.accumulate(rows)], features
        self.n_output_dims = levels * features

    def rows(self, x):
        table = self.params.view(-1, self.features)
        return torch.cat([self._level(x, level, table) for level in range(len(self.scales))], 1)

    def _level(self, x, level, table):
        start, end = self.offsets[level : level + 2]
        edge, place = nodes(self.scales[level]), x * self.scales[level] + 0.5
        low, fraction = place.floor().long(), place - place.floor()
        fraction = fraction**2 * (3 - 2 * fraction)
        value = 0
        for corner in torch.tensor(list(itertools.product((0, 1), repeat=3)), device=x.device):
            node, weight = low + corner, torch.where(corner.bool(), fraction, 1 - fraction).prod(1, keepdim=True)
            if edge**3 <= end - start:
                index = node[:, 0] + edge * (node[:, 1] + edge * node[:, 2])
            else:
                index = (node[:, 0] * PRIMES[0]) ^ (node[:, 1] * PRIMES[1]) ^ (node[:, 2] * PRIMES[2])
            value = value + weight * table[start + index.remainder(end - start)]
        return value


class Network(Module):
    def __init__(self, n_input_dims, n_output_dims, network_config, seed=1337):
        assert network_config["otype"] == "FullyFusedMLP" and network_config["n_neurons"] in (16, 32, 64, 128)
        width, hidden = network_config["n_neurons"], network_config["n_hidden_layers"]
        inputs, outputs = multiple(n_input_dims, ALIGNED), multiple(n_output_dims, ALIGNED)
        assert hidden >= 1 and network_config["activation"] == "ReLU" and network_config["output_activation"] == "None"
        shapes = [(width, inputs), *[(width, width)] * (hidden - 1), (outputs, width)]
        super().__init__(sum(o * i for o, i in shapes), math.sqrt(6 / (2 * width)), seed)
        self.shapes, self.outputs = shapes, n_output_dims

    def rows(self, x):
        parts = self.params.half().split([o * i for o, i in self.shapes])
        # Inputs that are padded are 1.
        x = torch.nn.functional.pad(x, (0, self.shapes[0][1] - x.shape[1]), value=1.0).half()
        for shape, part in zip(self.shapes, parts, strict=True):
            x = (x.float() @ part.view(shape).float().t()).half()  # fp16 storage, fp32 sums
            x = x if shape is self.shapes[-1] else x.relu()
        return _Scaled.apply(x)[:, : self.outputs]


class _Scaled(torch.autograd.Function):
    """Nothing forwards; backwards what fp16 does to a gradient that is scaled in the network."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * LOSS_SCALE).half() / LOSS_SCALE
