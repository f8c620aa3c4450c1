"""Train Toybox's prior: pictures, autoencoder, then text encoder and UNet together. The same command resumes.

    python scripts/train_toybox.py --work toybox-training --out toybox/prior --minutes 60

Everything follows from --seed except the number of steps, which follows from --minutes: the learning rates anneal
over the time given, so that every training ends settled, however long it was; --init goes on from an earlier one.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections import deque
from dataclasses import asdict, astuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from denoising import Captions, Unseen, errors, for_training, groups, temper  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from sample_toybox import sheet  # noqa: E402
from tqdm import tqdm  # noqa: E402
from training import Clock, asked_of, autocast, check_same, save_state, set_rate  # noqa: E402

from nerf.export.files import write_bytes, write_json  # noqa: E402
from nerf.seeding import step_generator  # noqa: E402
from toybox import architecture, pictures  # noqa: E402
from toybox.pictures import Look  # noqa: E402

SAMPLES = ("a frog", "a red car", "a cat wearing a blue hat", "a purple bear on a yellow cushion")
PICTURES = ("solids", "seed", "lambertian", "textureless", "coloured")  # options that say which
TIMESTEP_POWER = 0.6  # t = T u^0.6: two draws in three are above T / 2, where the words decide


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("toybox-training"), help="state, latents, and samples.png")
    parser.add_argument("--pictures", type=Path, help="where the pictures are or will be (--work)")
    parser.add_argument("--out", type=Path, default=ROOT / "toybox" / "prior")
    parser.add_argument("--init", type=Path, help="an earlier prior to start from, tensor by tensor where shapes agree")
    parser.add_argument("--vae", type=Path, help="an earlier prior whose autoencoder to start from (that of --init)")
    parser.add_argument("--solids", type=int, default=12000, help="random objects; each gives three pictures")
    parser.add_argument("--vae_minutes", type=float, default=8, help="for the autoencoder; 0 keeps that of --vae")
    parser.add_argument("--minutes", type=float, default=60, help="for text encoder and UNet")
    parser.add_argument("--vae_rate", type=float, default=2e-3, help="peak learning rate; less with --vae")
    parser.add_argument("--rate", type=float, help="peak, of text encoder and UNet: 6e-4 sqrt(batch / 64)")
    parser.add_argument("--batch", type=int, help="pictures a step: 64 on a CPU, 256 on a GPU")
    parser.add_argument("--prediction", choices=architecture.PREDICTIONS, default=architecture.PREDICTIONS[0])
    parser.add_argument("--channels", type=int, default=architecture.LATENT_CHANNELS, help="of the latents")
    anew = "what reads or writes latents begins from nothing: of the UNet, and of an autoencoder that is trained"
    parser.add_argument("--anew", action="store_true", help=anew)
    parser.add_argument("--lambertian", type=float, default=Look.lambertian, help="share of pictures that are lit")
    parser.add_argument("--textureless", type=float, default=Look.textureless, help="share that is lit and white")
    parser.add_argument("--coloured", type=float, default=Look.coloured, help="share before a coloured background")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.batch = options.batch or (64 if options.device == "cpu" else 256)
    options.vae = options.vae or options.init
    options.rate = options.rate or 6e-4 * (options.batch / 64) ** 0.5
    try:
        options.look = Look(options.lambertian, options.textureless, options.coloured)
    except ValueError as error:
        parser.error(str(error))
    options.pictures = options.pictures or options.work
    for folder in (options.work, options.pictures):
        folder.mkdir(parents=True, exist_ok=True)
    path = options.pictures / f"pictures-{name_of(options)}.npz"
    data = pictures.make(path, options.solids, options.seed, look=options.look)
    vae = train_vae(options, data)
    train_diffusion(options, data, vae)


def name_of(options) -> str:
    """Of the pictures in files; other looks than the ordinary one have names of their own."""
    look = () if options.look == Look() else astuple(options.look)
    return "-".join(map(str, (options.solids, options.seed, *look)))


def start_from(part, folder, file, other=None):
    """Copy the tensors of `folder`/`file` whose names and shapes agree into a fresh module.

    `other`: one of another width of the latents; what has another shape there is left as it is.
    """
    if folder:
        ours, theirs, agree = part.state_dict(), load_file(folder / file), (other or part).state_dict()
        known = {k: v for k, v in theirs.items() if k in ours and v.shape == ours[k].shape == agree[k].shape}
        part.load_state_dict(ours | known)
        print(f"{folder / file}: {len(known)} of {len(ours)} tensors taken over")
    return part


def steps_of(folder) -> int:
    """How many steps an earlier prior was trained, all its stages together."""
    return json.loads((folder / "training.json").read_text())["steps"] if folder else 0


def take_over_words(text_encoder, tokenizer, folder):
    """Copy the embeddings of the words that an earlier prior knew as well."""
    if folder:
        from transformers import CLIPTokenizer

        name = "token_embedding.weight"
        stored = load_file(folder / "text_encoder" / "model.safetensors")
        rows = next(value for key, value in stored.items() if key.endswith(name))
        ours = next(value for key, value in text_encoder.named_parameters() if key.endswith(name))
        earlier = CLIPTokenizer.from_pretrained(str(folder / "tokenizer")).get_vocab()
        with torch.no_grad():
            for token, i in tokenizer.get_vocab().items():
                if token in earlier:
                    ours[i] = rows[earlier[token]]


def train_vae(options, data, batch=16):
    """L1, L1 of differences between neighbours, and a little noise on the latents so that they are smooth."""
    state_path = options.work / "vae.pt"
    asked = asked_of(options, *PICTURES, "vae", "vae_rate", "channels", "anew")
    torch.manual_seed(options.seed)
    other = architecture.build_vae(options.channels + 1) if options.anew and options.vae_minutes else None
    vae = architecture.build_vae(options.channels)
    start_from(vae, options.vae, "vae/diffusion_pytorch_model.safetensors", other)
    vae = vae.to(options.device, memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    images, step, spent = torch.from_numpy(data.images), 0, 0.0
    if state_path.exists():
        state = torch.load(state_path)
        check_same(state_path, state, asked)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    clock = Clock(spent, options.vae_minutes)
    bar = tqdm(desc="autoencoder", initial=step, unit="step")
    while clock.fraction < 1:
        generator = step_generator(options.seed, step, stream="autoencoder")
        set_rate(optimizer, options.vae_rate, step, clock.fraction)
        x = images[torch.randint(len(images), (batch,), generator=generator)].to(options.device).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast(options.device):
            z = vae.encode(x).latents
            y = vae.decode(z + 0.05 * torch.randn(z.shape, generator=generator).to(z)).sample
        y, z = y.float(), z.float()
        edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (2, 3))
        spread = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean()
        loss = (y - x).abs().mean() + 0.5 * edges + (y - x).square().mean() + 0.01 * spread
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 20 == 0:
            psnr = -10 * torch.log10((y - x).square().mean() / 4)
            bar.set_postfix(loss=f"{loss.item():.3f}", psnr=f"{psnr.item():.1f}", left=f"{clock.left:.0f}s")
        if clock.time_to_save(60):
            state = dict(vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step, spent=clock.spent)
            save_state(state_path, **state, asked=asked)
    bar.close()
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(options, data, vae):
    """Latents of all pictures, [N, C, 16, 16] float32. None is mirrored: a mug's handle is always on its left."""
    weights = b"".join(value.cpu().contiguous().numpy().tobytes() for value in vae.state_dict().values())
    path = options.work / f"latents-{name_of(options)}-{hashlib.sha256(weights).hexdigest()[:8]}.pt"
    if path.exists():
        return torch.load(path)["latents"]
    images, parts = torch.from_numpy(data.images), []
    for i in tqdm(range(0, len(images), 64), desc="latents", unit="batch"):
        x = images[i : i + 64].to(options.device).float() / 127.5 - 1
        with autocast(options.device):
            parts.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latents.float().cpu())
    latents = torch.cat(parts)
    save_state(path, latents=latents)
    return latents


def train_diffusion(options, data, vae):
    """The denoiser of latents, the text encoder trained along; EMA weights are what is saved."""
    state_path, device = options.work / "diffusion.pt", options.device
    asked = asked_of(options, *PICTURES, "init", "vae", "rate", "batch", "prediction", "channels", "anew")
    torch.manual_seed(options.seed)
    tokenizer = architecture.build_tokenizer()
    text_encoder = architecture.build_text_encoder(tokenizer)
    start_from(text_encoder, options.init, "text_encoder/model.safetensors")
    take_over_words(text_encoder, tokenizer, options.init)
    other = architecture.build_unet(options.channels + 1) if options.anew else None
    unet = architecture.build_unet(options.channels)
    start_from(unet, options.init, "unet/diffusion_pytorch_model.safetensors", other)
    model = for_training(text_encoder, unet, device)
    captions, latents = Captions(tokenizer, data), encode_all(options, data, vae)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    latents = latents.to(device) * vae.config.scaling_factor
    scheduler = architecture.build_scheduler(options.prediction)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    parts = {"vae": vae, "tokenizer": tokenizer, "scheduler": scheduler, **dict(average.items())}
    optimizer = torch.optim.AdamW(groups(model), 1e-3, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    first, spent = steps_of(options.init), 0.0  # counted on, so that no stage draws the batches of another
    step = first
    losses = deque(maxlen=500)  # tensors: reading one would wait for the device
    if state_path.exists():
        state = torch.load(state_path)
        check_same(state_path, state, asked)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, step, spent = state["first"], state["step"], state["spent"]

    def loss_of(step):
        generator = step_generator(options.seed, step, stream="captions")
        pick = captions.pick(options.batch, generator)
        z = latents[pick.to(device)]
        noise = torch.randn(
            z.shape, generator=step_generator(options.seed, step, device, stream="noise"), device=device
        )
        t = torch.arange(options.batch) + torch.rand(options.batch, generator=generator)  # stratified: less variance
        t = ((t / options.batch) ** TIMESTEP_POWER * architecture.TIMESTEPS).long().to(device)
        told = (part.to(device) for part in captions.blend(pick, generator))
        return errors(model, scheduler, z, noise, t, *told).mean()

    if options.init and step == first:
        temper(model, lambda: loss_of(step))
        average.load_state_dict(model.state_dict())
    unseen = Unseen(captions, latents, scheduler)
    figures, clock, taken = unseen.measure(average), Clock(spent, options.minutes), step
    bar = tqdm(desc="diffusion", initial=step, unit="step")
    while clock.fraction < 1:
        set_rate(optimizer, options.rate, step - first, clock.fraction)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, (1 + step - first) / (10 + step - first))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.detach())
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{recent(losses):.4f}", **figures, left=f"{clock.left:.0f}s")
        if clock.time_to_save(300):
            state = dict(model=model.state_dict(), average=average.state_dict(), optimizer=optimizer.state_dict())
            spent = clock.spent
            save_state(state_path, **state, first=first, step=step, spent=spent, asked=asked)
            figures = unseen.measure(average)
            tqdm.write(f"diffusion: step {step}: {figures}")
            save_prior(options, parts, len(latents), first, step, spent, figures)
    bar.close()
    if step == taken:  # complete before: it may be asked for in another place
        save_prior(options, parts, len(latents), first, step, spent, figures)


def recent(losses):
    """Mean of the last losses."""
    return torch.stack(list(losses)).mean().item()


def save_prior(options, parts, count, first, step, spent, figures):
    """The pipeline, its training record, the checksums that `main.py doctor` compares, and samples to look at."""
    out = options.out
    architecture.save_pipeline(out, **parts)
    record = {
        "seed": options.seed,
        "init": options.init and options.init.name,
        "pictures": count,
        **asdict(options.look),
        "steps": step,
        "steps_before": first,
        "batch": options.batch,
        "minutes": round(spent / 60, 1),
        **figures,
        "device": options.device,
        "torch": torch.__version__,
    }
    write_json(out / "training.json", record)
    files = sorted(p for p in out.rglob("*") if p.suffix in (".json", ".safetensors", ".txt"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(out).as_posix()}\n" for p in files]
    (out / "SHA256SUMS").write_text("".join(sums))
    write_bytes(options.work / "samples.png", sheet(out, SAMPLES, steps=10, device=options.device))


if __name__ == "__main__":
    main()
