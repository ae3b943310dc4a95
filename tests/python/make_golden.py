#!/usr/bin/env python3
"""make_golden.py OUT SIDE_FILES [SIZES...]: golden folders of other sizes, by transformers in float64.

Writes OUT/SIZES/ in the form of tests/data/fixtures (model folder `tiny-qwen2_5_vl`, `cases/`), which build/tests/golden takes as
an argument: forward cases with every hidden state, an SFT batch with gradients, three AdamW steps, a GRPO batch with the
losses and gradients of all four loss types. SIDE_FILES is a model folder whose tokenizer and templates are copied.
With no SIZES all of them; their names are the keys of SIZES below.
"""
import json
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

FORWARD_NAMES = ("decoder.embeds", "decoder.norm", "vit_output")
SFT_HYPERPARAMETERS = dict(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)
BETA, EPSILON, MAX_LENGTH = 0.04, 0.2, 32

# text sizes, vision sizes, image grids in patches, tied, std of the random weights
SIZES = {
    "narrow": (dict(hidden_size=60, num_attention_heads=3, num_key_value_heads=1, intermediate_size=52, num_hidden_layers=2,
                    section=[2, 4, 4]),
               dict(depth=3, hidden_size=36, num_heads=3, intermediate_size=44, window_size=56, fullatt_block_indexes=[2]),
               [[1, 6, 10], [1, 14, 2]], True, 0.08),
    "odd": (dict(hidden_size=50, num_attention_heads=5, num_key_value_heads=5, intermediate_size=37, num_hidden_layers=3,
                 section=[1, 2, 2]),
            dict(depth=2, hidden_size=40, num_heads=2, intermediate_size=45, window_size=112, fullatt_block_indexes=[0]),
            [[1, 18, 10], [1, 2, 2]], False, 0.08),
    "wide": (dict(hidden_size=256, num_attention_heads=2, num_key_value_heads=1, intermediate_size=200, num_hidden_layers=2,
                  section=[16, 24, 24]),
             dict(depth=4, hidden_size=160, num_heads=2, intermediate_size=136, window_size=112, fullatt_block_indexes=[1, 3]),
             [[1, 24, 24], [1, 8, 12]], True, 0.05),
    "eight": (dict(hidden_size=192, num_attention_heads=8, num_key_value_heads=2, intermediate_size=320, num_hidden_layers=4,
                   section=[4, 4, 4]),
              dict(depth=4, hidden_size=128, num_heads=4, intermediate_size=96, window_size=84, fullatt_block_indexes=[0, 3]),
              [[1, 16, 12], [1, 4, 26]], False, 0.06),
}


def old_name(name):
    """The parameter names of the published folders, which gradients carry."""
    for new, old in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(new):
            return old + name[len(new):]
    return name


def make_model(folder, side_files, sizes):
    text, vision, _, tied, std = sizes
    text, section = dict(text), text["section"]
    del text["section"]
    with open(os.path.join(side_files, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    ids = {k: config[k] for k in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    whole = dict(vision, out_hidden_size=text["hidden_size"], hidden_act="silu")
    made = Qwen2_5_VLConfig(
        text_config=dict(text, vocab_size=config["vocab_size"], rms_norm_eps=1e-6, max_position_embeddings=2048,
                         tie_word_embeddings=tied,
                         rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=section)),
        vision_config=whole, tie_word_embeddings=tied, **ids)
    torch.manual_seed(23)
    model = Qwen2_5_VLForConditionalGeneration(made).float().eval()
    with torch.no_grad():
        for name, w in model.named_parameters():
            norm = w.dim() == 1 and "norm" in name or name.endswith("ln_q.weight")
            w.copy_(torch.randn_like(w) * (0.1 if norm else std) + (1 if norm else 0))
    os.makedirs(folder)
    save_file({old_name(k): v.detach().numpy() for k, v in model.named_parameters()}, f"{folder}/model.safetensors")
    config.update(text, tie_word_embeddings=tied, max_position_embeddings=2048, rms_norm_eps=1e-6,
                  rope_scaling=dict(type="mrope", mrope_section=section))
    config["vision_config"].update(whole)
    with open(f"{folder}/config.json", "w", encoding="utf-8") as f:
        json.dump(config, f)
    for name in os.listdir(side_files):
        if name != "config.json" and not name.startswith("model") and os.path.isfile(os.path.join(side_files, name)):
            shutil.copy(os.path.join(side_files, name), folder)
    return model.double()


class Maker:
    def __init__(self, model, grids, seed):
        self.model, self.grids = model, grids
        self.random = np.random.default_rng(seed)
        c = model.config
        self.image, self.start, self.end = c.image_token_id, c.vision_start_token_id, c.vision_end_token_id
        self.pixels = [self.random.standard_normal((t * h * w, 1176)).astype(np.float32) for t, h, w in grids]

    def words(self, n):
        return [int(i) for i in self.random.integers(0, 900, n)]

    def prompt(self, images, words):
        ids = self.words(3)
        for i in images:
            t, h, w = self.grids[i]
            ids += [self.start] + [self.image] * (t * h * w // 4) + [self.end]
        return ids + self.words(words)

    def inputs(self, ids, images):
        row = torch.tensor([ids])
        out = {"input_ids": row, "attention_mask": torch.ones_like(row), "mm_token_type_ids": (row == self.image).int()}
        if images:
            out["pixel_values"] = torch.tensor(np.concatenate([self.pixels[i] for i in images])).double()
            out["image_grid_thw"] = torch.tensor([self.grids[i] for i in images])
        return out

    def logits(self, ids, images):
        return self.model(**self.inputs(ids, images)).logits[0]

    def logprobs(self, ids, images, first, temperature=1.0):
        """Of ids[first:], each given what stands before it."""
        x = torch.log_softmax(self.logits(ids, images)[first - 1:-1] / temperature, -1)
        return x[torch.arange(len(ids) - first), torch.tensor(ids[first:])]

    def gradients(self, loss):
        self.model.zero_grad()
        loss.backward()
        return {old_name(k): (p.grad if p.grad is not None else torch.zeros_like(p)).float().numpy().copy()
                for k, p in self.model.named_parameters()}


def norm_of(gradients):
    return float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())))


def forward_case(m, images, words, completion):
    """Every hidden state of one sequence; greedy tokens by recomputation."""
    prompt = m.prompt(images, words)
    ids = prompt + m.words(completion)
    states, hooks = {}, []

    def keep(name):
        def hook(module, args, out):
            value = out[0] if isinstance(out, tuple) else out
            states.setdefault(name, value.detach().reshape(-1, value.shape[-1]))
        return hook

    text, vision = m.model.model.language_model, m.model.model.visual
    for i, layer in enumerate(text.layers):
        hooks.append(layer.register_forward_hook(keep(f"decoder.layer.{i}")))
    hooks.append(text.norm.register_forward_hook(keep("decoder.norm")))
    hooks.append(vision.patch_embed.register_forward_hook(keep("vit.patch_embed")))
    for i, block in enumerate(vision.blocks):
        hooks.append(block.register_forward_hook(keep(f"vit.block.{i}")))
    with torch.no_grad():
        logits = m.logits(ids, images)
        positions, delta = m.model.model.get_rope_index(
            torch.tensor([ids]), mm_token_type_ids=(torch.tensor([ids]) == m.image).int(),
            image_grid_thw=torch.tensor([m.grids[i] for i in images]) if images else None,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        for h in hooks:
            h.remove()
        out = {"input_ids": np.array(ids, np.int32), "prompt_length": np.array([len(prompt)], np.int32),
               "position_ids": positions[:, 0].numpy().astype(np.int32), "rope_delta": delta.numpy().reshape(1).astype(np.int32),
               "logits": logits.float().numpy(),
               "completion_logprobs": m.logprobs(ids, images, len(prompt)).float().numpy(),
               "completion_logprobs_temperature_0.7": m.logprobs(ids, images, len(prompt), 0.7).float().numpy()}
        p = torch.log_softmax(logits[len(prompt) - 1:-1], -1)
        out["completion_entropies"] = (-(p.exp() * p).sum(-1)).float().numpy()
        if images:
            out["pixel_values"] = np.concatenate([m.pixels[i] for i in images])
            out["image_grid_thw"] = np.array([m.grids[i] for i in images], np.int32)
        out.update({k: v.float().numpy() for k, v in states.items()})
        greedy, margin = list(prompt), 1e9
        for _ in range(12):
            row = m.logits(greedy, images)[-1]
            best = torch.topk(row, 2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            greedy.append(int(best.indices[0]))
        # A tie within the error of float32 would test nothing; placeholders are never sampled here, but are there.
        if margin > 2e-3 and m.image not in greedy[len(prompt):]:
            out["greedy_tokens"] = np.array(greedy[len(prompt):], np.int32)
    return out


def sft_batch(m):
    rows = [([0], 6, 9), ([1, 0], 4, 2), ([], 8, 13)]
    samples = []
    for images, words, completion in rows:
        prompt = m.prompt(images, words)
        samples.append((images, prompt + m.words(completion), len(prompt)))
    length = max(len(ids) for _, ids, _ in samples)
    file = {k: np.full((len(samples), length), fill, np.int32)
            for k, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))}
    for r, (_, ids, first) in enumerate(samples):
        file["input_ids"][r, :len(ids)] = ids
        file["attention_mask"][r, :len(ids)] = 1
        file["labels"][r, first:len(ids)] = ids[first:]
    order = [i for images, _, _ in samples for i in images]
    file["pixel_values"] = np.concatenate([m.pixels[i] for i in order])
    file["image_grid_thw"] = np.array([m.grids[i] for i in order], np.int32)
    count = sum(len(ids) - first for _, ids, first in samples)
    return file, lambda: -sum(m.logprobs(ids, images, first).sum() for images, ids, first in samples) / count


def adamw(m, loss_of):
    h = SFT_HYPERPARAMETERS
    before = {k: p.detach().clone() for k, p in m.model.named_parameters()}
    decay = [p for p in m.model.parameters() if p.dim() >= 2]
    plain = [p for p in m.model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=h["weight_decay"]), dict(params=plain, weight_decay=0)],
                                  lr=h["lr"], betas=(h["beta1"], h["beta2"]), eps=h["eps"])
    trace = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(m.model.parameters(), h["max_grad_norm"])
        optimizer.step()
        trace.append([float(loss), float(norm)])
    with torch.no_grad():
        last = float(loss_of())
    after = {old_name(k): p.detach().float().numpy().copy() for k, p in m.model.named_parameters()}
    with torch.no_grad():
        for k, p in m.model.named_parameters():
            p.copy_(before[k])
    return after, dict(kind="adamw", batch="sft_batch", hyperparameters=h, weights="adamw_after_3_steps.safetensors",
                       loss_and_unclipped_gradient_norm_before_each_step=trace, loss_after_last_step=last)


def token_weights(kind, mask, first, end, accumulation, items):
    lengths = mask[first:end].sum(1)
    if kind == "grpo":
        return [1 / ((end - first) * max(n, 1)) / accumulation for n in lengths]
    if kind == "bnpo":
        return [1 / max(lengths.sum(), 1) / accumulation] * (end - first)
    if kind == "dr_grpo":
        return [1 / ((end - first) * MAX_LENGTH) / accumulation] * (end - first)
    return [1 / max(items, 1)] * (end - first)


def grpo_batch(m, out):
    """Two groups of four: [image 0], [image 1, image 0]; left-padded prompts, right-padded completions, a mask of its own."""
    groups, size, rng = [[0], [1, 0]], 4, m.random
    prompts = [m.prompt(images, 5 + 2 * i) for i, images in enumerate(groups)]
    rows = [(g, m.words(int(rng.integers(2, 17)))) for g in range(len(groups)) for _ in range(size)]
    P, T, R = max(map(len, prompts)), max(len(c) for _, c in rows), len(rows)
    f = {k: np.zeros((R, n), np.int32) for k, n in (("prompt_ids", P), ("prompt_mask", P), ("completion_ids", T),
                                                    ("completion_attention", T), ("completion_mask", T))}
    for r, (g, completion) in enumerate(rows):
        f["prompt_ids"][r, P - len(prompts[g]):] = prompts[g]
        f["prompt_mask"][r, P - len(prompts[g]):] = 1
        f["completion_ids"][r, :len(completion)] = completion
        f["completion_attention"][r, :len(completion)] = 1
        f["completion_mask"][r, :len(completion)] = rng.random(len(completion)) < 0.9
    rewards = rng.random(R).reshape(-1, size)
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    f["rewards"], f["advantages"] = rewards.reshape(-1).astype(np.float32), advantages.reshape(-1).astype(np.float32)
    f["pixel_values"] = np.concatenate(m.pixels)
    f["image_grid_thw"] = np.array(m.grids, np.int32)
    f["image_index_of_sample"] = np.array([i for g, _ in rows for i in groups[g]], np.int32)
    f["images_per_sample"] = np.array([len(groups[g]) for g, _ in rows], np.int32)

    def policy():
        lines = []
        for g, completion in rows:
            x = m.logprobs(prompts[g] + completion, groups[g], len(prompts[g]))
            lines.append(torch.cat([x, torch.zeros(T - len(completion), dtype=x.dtype)]))
        return torch.stack(lines)

    with torch.no_grad():
        now = policy().numpy()
    real = f["completion_attention"]
    f["old_logprobs"] = ((now + rng.normal(0, 0.2, now.shape)) * real).astype(np.float32)
    f["ref_logprobs"] = ((now + rng.normal(0, 0.25, now.shape)) * real).astype(np.float32)
    mask, ref = f["completion_mask"], torch.tensor(f["ref_logprobs"]).double()
    given = torch.tensor(f["old_logprobs"]).double()
    adv = torch.tensor(f["advantages"]).double()[:, None]

    def parts(logprob, old, high):
        ratio = torch.exp(logprob - old)
        kl = torch.exp(ref - logprob) - (ref - logprob) - 1
        loss = -torch.minimum(ratio * adv, torch.clamp(ratio, 1 - EPSILON, 1 + high) * adv) + BETA * kl
        return ratio, kl, loss

    def reduce(kind, loss, first=0, end=R, accumulation=1, items=None):
        w = token_weights(kind, mask, first, end, accumulation, int(mask.sum()) if items is None else items)
        return (loss[first:end] * torch.tensor(mask[first:end]) * torch.tensor(w)[:, None]).sum()

    case = dict(kind="grpo", group_size=size, beta=BETA, epsilon_low=EPSILON, epsilon_high=EPSILON,
                max_completion_length=MAX_LENGTH, losses={}, gradients={}, other_losses_without_gradients={})
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo"):
        items = int(mask.sum()) + (37 if kind == "dapo" else 0)
        loss = reduce(kind, parts(policy(), given, EPSILON)[2], items=items)
        gradients = m.gradients(loss)
        save_file(gradients, f"{out}/grpo_gradients_{kind}.safetensors")
        case["losses"][kind] = dict(loss=float(loss), gradient_global_norm=norm_of(gradients), num_items=items)
        case["gradients"][kind] = f"grpo_gradients_{kind}.safetensors"
    with torch.no_grad():
        x = policy()
        ratio, kl, loss = parts(x, given, EPSILON)
        for key, value in (("policy_logprobs", x), ("ratio", ratio), ("per_token_kl", kl), ("per_token_loss", loss)):
            f[key] = value.float().numpy()
        kinds = list(case["losses"])
        others = case["other_losses_without_gradients"]
        others["clip_higher_0.28"] = {k: float(reduce(k, parts(x, given, 0.28)[2])) for k in kinds}
        others["on_policy_old_equals_current"] = {k: float(reduce(k, parts(x, x, EPSILON)[2])) for k in kinds}
        others["two_accumulated_micro_batches"] = {
            k: sum(float(reduce(k, loss, h * R // 2, (h + 1) * R // 2, 2)) for h in (0, 1)) for k in kinds}
    save_file(f, f"{out}/grpo_batch.safetensors")
    return case


def make(folder, side_files, sizes):
    shutil.rmtree(folder, ignore_errors=True)
    model = make_model(f"{folder}/tiny-qwen2_5_vl", side_files, sizes)
    cases = f"{folder}/cases"
    os.makedirs(cases)
    m, index = Maker(model, sizes[2], 5), {}
    for name, images, words, completion in (("one_image", [0], 7, 11), ("two_images", [0, 1], 5, 3), ("text_only", [], 21, 17)):
        save_file({k: np.ascontiguousarray(v) for k, v in forward_case(m, images, words, completion).items()},
                  f"{cases}/{name}.safetensors")
        index[name] = dict(kind="forward")
    file, loss_of = sft_batch(m)
    save_file(file, f"{cases}/sft_batch.safetensors")
    loss = loss_of()
    save_file(m.gradients(loss), f"{cases}/sft_gradients.safetensors")
    index["sft_batch"] = dict(kind="sft", loss=float(loss), gradients="sft_gradients.safetensors")
    after, index["adamw"] = adamw(m, loss_of)
    save_file(after, f"{cases}/adamw_after_3_steps.safetensors")
    index["grpo_batch"] = grpo_batch(m, cases)
    with open(f"{cases}/index.json", "w", encoding="utf-8") as f:
        json.dump(index, f, indent=1)


def main():
    out, side_files, names = sys.argv[1], sys.argv[2], sys.argv[3:] or list(SIZES)
    for name in names:
        make(os.path.join(out, name), side_files, SIZES[name])
        print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main()
