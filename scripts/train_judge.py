"""Train the judge (toybox/judge.py): true pictures once, then a small classifier. The same command resumes.

    python scripts/train_judge.py --work judge-training --minutes 15

Every pair of words is seen, the ones kept back from the prior too: the judge knows the truth. Pictures follow from
--seed; the number of steps follows from --minutes, over which the learning rate anneals.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tqdm import tqdm  # noqa: E402
from training import Clock, asked_of, autocast, check_same, save_state, set_rate  # noqa: E402

from guidance.prompts import view_weights  # noqa: E402
from toybox import pictures, shapes  # noqa: E402
from toybox.judge import FILE, HEADS, SIZE, Judge, appearance, load, save  # noqa: E402
from toybox.tracer import cameras, trace  # noqa: E402
from toybox.words import OBJECTS  # noqa: E402

VIEWS_OF_A_SOLID = 2
PURE = 0.75  # views count for the accuracy where one view word has this weight
TEST_SEED = 1_000_000  # added to --seed: other solids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("judge-training"), help="pictures and training state")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--solids", type=int, default=40_000, help="random objects; each gives two pictures")
    parser.add_argument("--tests", type=int, default=1000, help="other objects, for the accuracy")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data = make_pictures(options, options.solids, options.seed)
    test = make_pictures(options, options.tests, options.seed + TEST_SEED)
    judge, steps = train(options, data)
    save(judge, options.out)
    load.cache_clear()
    found = accuracy(load(options.out).to(options.device), test, options.device)  # of what was written, in fp16
    save(judge, options.out, seed=options.seed, pictures=len(data["layers"]), steps=steps, accuracy=found)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB after {steps} steps;", found)


def make_pictures(options, solids, seed):
    """Layers of pictures (see `compose`) and what they show, made once. -> {layers, name [N], ..., view [N, 4]}"""
    arrays = pictures.made_once(options.work / f"judge-{solids}-{seed}.npz", partial(make_one, seed), solids)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def make_one(seed, index):
    """One random solid from VIEWS_OF_A_SOLID random cameras, as arrays with a row a picture."""
    rng, count = np.random.default_rng((seed, index)), VIEWS_OF_A_SOLID
    caption = pictures.random_caption(rng, held_out=True)
    elevation = pictures.random_elevation(rng, count)
    azimuth = rng.uniform(-180, 180, count)
    rig = cameras(azimuth, elevation, rng.uniform(*pictures.RADIUS, count), rng.uniform(*pictures.FOVY, count))
    buffers = trace(torch.from_numpy(shapes.build(caption, rng=rng)), rig, 2 * SIZE)
    lights = F.normalize(rig[:, :3] + torch.from_numpy(rng.normal(size=(count, 3))).float(), dim=1)
    lit = torch.einsum("bhwc,bc->bhw", buffers[..., 4:7], lights).clamp(min=0)[..., None]
    layers = F.avg_pool2d(torch.cat([buffers[..., :4], lit], -1).permute(0, 3, 1, 2), 2)
    seen = appearance(caption)
    row = {head: answers.index(seen[head]) if head in seen else -1 for head, answers in HEADS.items()}
    view = view_weights(torch.from_numpy(azimuth), torch.from_numpy(elevation), angle_front=90).float().numpy()
    row = {head: np.full(count, index) for head, index in row.items()}
    row["view"] = view * OBJECTS[caption.name].has_front  # 0: what has no front has no views
    return {
        "layers": (layers * 255).round().to(torch.uint8).numpy(),
        "above": elevation > 90 - pictures.POLAR[0],
        **row,
    }


def compose(layers, generator, *, harsh):
    """Pictures over random backgrounds; with `harsh`, also lit, moved, blurred and noisy as renderings and samples are.

    Args: layers: premultiplied albedo, coverage, premultiplied light from one direction. [B, 5, SIZE, SIZE] uint8

    Returns: [B, 3, SIZE, SIZE] in [0, 1]
    """
    layers = layers.float() / 255
    count = len(layers)
    draw = lambda low, high, *shape: low + (high - low) * torch.rand(count, *shape, generator=generator)  # noqa: E731
    spot = lambda *shape: draw(0, 1, *shape).to(layers.device)[:, :, None, None]  # noqa: E731
    behind = spot(1)
    behind = torch.where(spot(1) < pictures.Look.coloured, (behind + spot(3)) / 2, behind)
    if not harsh:
        return layers[:, :3] + (1 - layers[:, 3:4]) * behind
    zoom, mirror = draw(0.85, 1.15), draw(0, 1).sub(0.5).sign()
    turn = torch.zeros(count, 2, 3)
    turn[:, 0, 0], turn[:, 1, 1], turn[:, :, 2] = zoom * mirror, zoom, draw(-0.08, 0.08, 2)
    grid = F.affine_grid(turn.to(layers.device), [count, 1, SIZE, SIZE], align_corners=False)
    albedo, cover, light = F.grid_sample(layers, grid, align_corners=False).split([3, 1, 1], 1)
    ambient = torch.where(spot(1) < 0.4, 0.3 + 0.7 * spot(1), 1.0)
    solid = torch.where(spot(1) < 0.3, 0.8 + 0.2 * spot(1), 1.0)  # a field may let some of the background through
    shaded = albedo * (ambient + (1 - ambient) * light / cover.clamp(min=1e-3))
    picture = solid * shaded + (1 - solid * cover) * behind
    kernel = torch.tensor([1.0, 4, 6, 4, 1], device=layers.device) / 16
    padded = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(padded, (kernel[:, None] * kernel).expand(3, 1, 5, 5), groups=3)
    blur = spot(1) * (spot(1) < 0.6)
    picture = picture.lerp(blurred, blur)
    noise = torch.randn(picture.shape, generator=generator).to(picture)
    return (picture + 0.04 * spot(1) * noise).clamp(0, 1)


def loss_of(answers, data, pick):
    """Cross-entropy of every head, of the pictures that have an answer; views are blends."""
    total = 0
    for head, found in answers.items():
        wanted = data[head][pick].to(found.device)
        if head == "view":
            total = total - (wanted * found).sum(1).mean()
        else:
            known = (wanted >= 0).float()
            total = total - (found.gather(1, wanted.clamp(min=0)[:, None])[:, 0] * known).sum() / len(pick)
    return total


def train(options, data):
    """AdamW with a rate that anneals over the minutes given. -> judge, steps"""
    torch.manual_seed(options.seed)
    judge = Judge().to(options.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), options.rate, weight_decay=0.05)
    path, step, spent, generator = options.work / "judge.pt", 0, 0.0, torch.Generator()
    asked = asked_of(options, "solids", "seed", "batch", "rate")
    if path.exists():
        state = torch.load(path)
        check_same(path, state, asked)
        judge.load_state_dict(state["judge"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    clock, losses, right = Clock(spent, options.minutes), [], []
    bar = tqdm(desc="judge", initial=step, unit="step")
    while clock.fraction < 1:
        generator.manual_seed(1_000_003 * options.seed + step)
        set_rate(optimizer, options.rate, step, clock.fraction)
        pick = torch.randint(len(data["layers"]), (options.batch,), generator=generator)
        images = compose(data["layers"][pick].to(options.device), generator, harsh=True)
        with autocast(options.device):
            answers = judge.train()(images)
        loss = loss_of({head: found.float() for head, found in answers.items()}, data, pick)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(loss.item())
        right.append(float((answers["name"].argmax(1).cpu() == data["name"][pick]).float().mean()))
        bar.update()
        if step % 10 == 0:
            shown = {"loss": np.mean(losses[-100:]), "name": np.mean(right[-100:]), "left": clock.left}
            bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()})
        if clock.time_to_save(60):
            spent = clock.spent
            save_state(
                path, judge=judge.state_dict(), optimizer=optimizer.state_dict(), step=step, spent=spent, asked=asked
            )
    bar.close()
    return judge.eval(), step


@torch.no_grad()
def accuracy(judge, data, device):
    """Share of right answers by head: of the pictures that have one, and of views near one view word.

    "above": of objects in pictures from overhead, "level": in the others.
    """
    generator, parts = torch.Generator().manual_seed(0), []
    mean = lambda right: round(float(right.float().mean()), 4)  # noqa: E731
    for layers in data["layers"].split(256):
        parts.append(judge(compose(layers.to(device), generator, harsh=False)))
    shares = {}
    for head in HEADS:
        found = torch.cat([part[head] for part in parts]).argmax(1).cpu()
        wanted = data[head] if head != "view" else data[head].argmax(1)
        asked = data[head] >= 0 if head != "view" else data[head].amax(1) > PURE
        right = found == wanted
        shares[head] = mean(right[asked])
        if head == "name":
            shares |= {"above": mean(right[data["above"]]), "level": mean(right[~data["above"]])}
    return shares


if __name__ == "__main__":
    main()
