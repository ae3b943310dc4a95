#!/usr/bin/env python3
"""One SFT step in hand-written torch: what a careful programmer writes, for `vireo bench sft` to be held against.

Takes the options of trl_grpo_baseline.py and prints one JSON line of the same form. Rows are of one length, so that
nothing is padded; the vision tower runs once a picture, logits are taken for answer tokens alone, AdamW is fused.
"""
import trl_grpo_baseline as base
from trl_grpo_baseline import A, F, clock, torch


def main():
    name, cfg = base.configuration()
    model = base.build(cfg).train()
    ids, pix, grid = base.prompts(cfg)
    answers = torch.randint(len(base.SPECIAL), cfg.text_config.vocab_size, (ids.shape[0], A.new_tokens))
    full = torch.cat([ids, answers], 1)
    prompt = ids.shape[1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rows = []
    for run in range(A.warmup + A.runs):
        start = clock()
        # As shared_logps of the baseline, without completions that share a prompt.
        features = model.model.get_image_features(pix, grid)
        features = features.pooler_output if hasattr(features, "pooler_output") else features
        if isinstance(features, (tuple, list)):
            features = torch.cat(list(features))
        embeds = model.model.language_model.embed_tokens(full)
        embeds = embeds.masked_scatter((full == base.IMG).unsqueeze(-1), features)
        positions, _ = model.model.get_rope_index(full, mm_token_type_ids=(full == base.IMG).int(), image_grid_thw=grid)
        hidden = model.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False)
        logits = model.lm_head(hidden.last_hidden_state[:, prompt - 1:-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), answers.reshape(-1))
        forward = clock()
        loss.backward()
        backward = clock()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = clock()
        if run >= A.warmup:
            rows.append({"forward": forward - start, "backward": backward - forward, "optimizer": end - backward,
                         "step": end - start})
    least, median, cpu, cpu_median = base.summary(rows)
    base.LOAD0 = base.load()
    base.emit(config=name, batch=ids.shape[0], runs=len(rows), seconds_min=least, seconds_median=median,
              cpu_seconds_min=cpu, cpu_seconds_median=cpu_median)


main()
