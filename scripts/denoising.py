"""What Toybox's diffusion model learns from: pictures and their words, the loss, and what the loss hides.

Not a command: scripts/train_toybox.py is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from training import autocast

from guidance.prompts import SIDED_WORDS, view_weights
from toybox import architecture
from toybox.captions import parse
from toybox.words import OBJECTS

DROP_ALL, DROP_VIEW, ONE_VIEW = 0.1, 0.1, 0.1  # captions: none, no view word, only the nearest view word; else blended
WORN_TIMES, SUPPORT_TIMES = 3.0, 1.5  # how much more often a picture is drawn that says one: few do
FACED_TIMES = 1.5  # ... that looks at a front or a back: the two are taken for each other, sides never are
UNSEEN, UNSEEN_SHARE = 512, 64  # pictures of the last solids, one in 64, are kept back to measure on


class Captions:
    """Token ids of every caption, and for each picture the blend of them that describes it."""

    def __init__(self, tokenizer, data):
        phrases, index = np.unique(data.captions, return_inverse=True)
        suffixes = ("", *(f", {word}" for word in SIDED_WORDS))
        texts = [phrase + suffix for phrase in phrases.tolist() for suffix in suffixes] + [""]
        encoded = tokenizer(texts, padding="max_length", max_length=architecture.TOKENS, return_tensors="pt")
        self.ids, self.empty = encoded.input_ids, len(texts) - 1
        self.first = torch.from_numpy(index) * len(suffixes)
        azimuth, elevation = torch.from_numpy(data.azimuth), torch.from_numpy(data.elevation)
        self.views = view_weights(azimuth, elevation, angle_front=90, sided=True).float()
        said = [parse(phrase) for phrase in phrases.tolist()]
        times = [WORN_TIMES ** bool(one.worn) * SUPPORT_TIMES ** bool(one.support) for one in said]
        has_front = torch.tensor([OBJECTS[one.name].has_front for one in said])
        ends = self.views[:, [SIDED_WORDS.index(word) for word in ("front view", "back view")]].amax(1)
        self.chances = torch.tensor(times)[index] * torch.where(has_front[index] & (ends > 0.5), FACED_TIMES, 1.0)
        self.unseen = len(index) - len(index) // UNSEEN_SHARE - 1  # the first of those kept back

    def pick(self, count, generator):
        """Pictures to train on, those that say much more often than others. [count] int64"""
        return torch.multinomial(self.chances[: self.unseen], count, replacement=True, generator=generator)

    def blend(self, pick, generator):
        """-> ids of the captions needed [U, L], weights of each picture over them [B, U]"""
        views, draw = self.views[pick], torch.rand(len(pick), generator=generator)
        nearest = F.one_hot(views.argmax(-1), len(SIDED_WORDS)).float()
        views = torch.where((draw > 1 - ONE_VIEW)[:, None], nearest, views)
        none, plain = draw < DROP_ALL, (draw >= DROP_ALL) & (draw < DROP_ALL + DROP_VIEW)
        weights = torch.cat(
            [plain[:, None], views * ~(none | plain)[:, None], none[:, None]], 1
        )  # as the columns below
        said = self.first[pick, None] + torch.arange(1 + len(SIDED_WORDS))
        columns = torch.cat([said, torch.full((len(pick), 1), self.empty)], 1)
        rows, places = weights.nonzero(as_tuple=True)
        used, inverse = torch.unique(columns[rows, places], return_inverse=True)
        blend = torch.zeros(len(pick), len(used))
        blend[rows, inverse] = weights[rows, places]
        return self.ids[used], blend


def errors(model, scheduler, z, noise, t, ids, weights):
    """Mean squared errors of what the scheduler has predicted: v (arXiv:2202.00512, section 4), or the noise. [B]

    Args: z, noise: latents [B, C, 16, 16]; t: timesteps [B]; ids [U, L] and weights [B, U]: from `Captions.blend`.
    """
    v = scheduler.config.prediction_type == "v_prediction"
    with autocast(z.device.type):
        words = torch.einsum("bu,uld->bld", weights, model["text_encoder"](ids)[0].float())
        found = model["unet"](scheduler.add_noise(z, noise, t), t, encoder_hidden_states=words).sample.float()
    wanted = scheduler.get_velocity(z, noise, t) if v else noise
    return (found - wanted).square().mean((1, 2, 3))


class Unseen:
    """What the training does not see: pictures of solids kept back, each at a noise and a timestep of its own.

    The loss of the training says nothing: most of it lies at small t, and falls while large t forgets its words.
    """

    def __init__(self, captions, latents, scheduler, batch=64):
        generator, device = torch.Generator().manual_seed(0), latents.device
        kept = torch.arange(captions.unseen, len(latents))
        pick = kept[torch.randperm(len(kept), generator=generator)[:UNSEEN]]
        noise = torch.randn(len(pick), *latents.shape[1:], generator=generator).to(device)
        t = ((torch.arange(len(pick)) + 0.5) * architecture.TIMESTEPS / len(pick)).long().to(device)
        ids, weights = (part.to(device) for part in captions.blend(pick, generator))
        nothing = captions.ids[captions.empty][None].to(device), torch.ones(len(pick), 1, device=device)
        self.high, self.scheduler = t >= architecture.TIMESTEPS // 2, scheduler
        cut = lambda part: part.split(batch)  # noqa: E731
        pictures = [cut(part) for part in (latents[pick.to(device)], noise, t)]
        self.told = list(zip(*pictures, cut(weights), strict=True)), ids
        self.untold = list(zip(*pictures, cut(nothing[1]), strict=True)), nothing[0]

    @torch.no_grad()
    def measure(self, model):
        """-> {"unseen": the loss, "high": that of the noisier half, "words": by how much the words lower that}"""
        told, untold = (
            torch.cat([errors(model, self.scheduler, z, noise, t, ids, w) for z, noise, t, w in batches])
            for batches, ids in (self.told, self.untold)
        )
        high = told[self.high].mean()
        figures = {"unseen": told.mean(), "high": high, "words": untold[self.high].mean() - high}
        return {name: round(figure.item(), 4) for name, figure in figures.items()}


def for_training(text_encoder, unet, device):
    """Both parts on the device, as they are fastest there without a gradient that differs from float32's.

    Not compiled: torch 2.13's inductor gives all that lies below the second upsampling of the UNet, on a CPU in bf16,
    a gradient of zero, for a tenth less time and with hardly another loss.
    """
    from diffusers.models.attention_processor import AttnProcessor

    unet = unet.to(device, memory_format=torch.channels_last)
    if device == "cpu":  # faster: on so few places the backward of fused attention is mostly overhead
        text_encoder.set_attn_implementation("eager")
        unet.set_attn_processor(AttnProcessor())
    return torch.nn.ModuleDict({"text_encoder": text_encoder.to(device), "unet": unet})


def groups(model):
    """Queries and keys learn at a tenth of the rate.

    At the whole of it their products grew to hundreds: attention became a choice of one place, and the gradient so
    rough that a change of 0.3 % in the words turned it by 40 degrees.
    """
    names = ("to_q", "to_k", "q_proj", "k_proj")
    slow = [p for name, p in model.named_parameters() if any(part in names for part in name.split("."))]
    known = {id(p) for p in slow}
    return [{"params": [p for p in model.parameters() if id(p) not in known]}, {"params": slow, "share": 0.1}]


@torch.no_grad()
def temper(model, forward, spread=4.0):
    """Scale queries and keys down where the highest logit of a row is more than `spread` above the row's mean (median).

    Args: model: its attention is in the manner of diffusers or transformers; forward: a pass of some batch through it.
    """
    pairs, seen = [], {}
    for module in model.modules():
        q, k = getattr(module, "to_q", None), getattr(module, "to_k", None)
        q, k = (getattr(module, "q_proj", q), getattr(module, "k_proj", k))
        if q is not None:
            pairs.append((q, k, getattr(module, "heads", None) or module.num_heads))
    hooks = [
        part.register_forward_hook(lambda part, _, out: seen.update({part: out.float()}))
        for q, k, _ in pairs
        for part in (q, k)
    ]
    forward()
    for hook in hooks:
        hook.remove()
    for q, k, heads in pairs:
        rows, places = (seen[part].unflatten(-1, (heads, -1)).transpose(-3, -2) for part in (q, k))
        logits = rows @ places.transpose(-1, -2) / rows.shape[-1] ** 0.5
        found = (logits.amax(-1) - logits.mean(-1)).median().item()
        for parameter in (*q.parameters(), *k.parameters()):
            parameter.mul_(min(1.0, spread / max(found, 1e-6)) ** 0.5)
