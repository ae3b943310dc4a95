"""plan.py BUILD [--device-only]: the memory plan of a job against the device bytes and the resident bytes it took, within 10 %.

A sanitiser's shadow memory is no part of the plan: --device-only leaves the resident bytes out.
"""
import json
import subprocess
import sys
import tempfile

MODEL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "text_config": {
        "model_type": "qwen2_5_vl_text", "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 2048, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}},
    "vision_config": {
        "model_type": "qwen2_5_vl", "depth": 4, "hidden_size": 128, "num_heads": 4, "intermediate_size": 256,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1, 3], "out_hidden_size": 192,
        "hidden_act": "silu", "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2},
    "vision_start_token_id": 3, "vision_end_token_id": 4, "image_token_id": 5, "video_token_id": 6,
    "tie_word_embeddings": True, "dtype": "float32"}
CASES = [
    ("grpo", {}),
    ("grpo", {"image": 336}),
    ("grpo", {"group": 2}),
    ("grpo", {"keep_activations": False, "offload": "none"}),
    ("grpo", {"gradient_checkpointing": True, "offload": "reference"}),
    ("grpo", {"dtype": "bf16"}),
    ("grpo", {"dtype": "bf16", "gradient_checkpointing": True, "offload": "all"}),
    ("sft", {"prompts": 16}),
    ("sft", {"prompts": 16, "offload": "optimizer"}),
]


def measure(method, options):
    """One step of the case: what the bench printed."""
    config = {"model": MODEL, "image": 112, "prompts": 4, "group": 8, "new_tokens": 64, "text_tokens": 24, "runs": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({**config, **options}, f)
        f.flush()
        r = subprocess.run([sys.argv[1] + "/vireo", "bench", method, "--config", f.name, "--json"],
                           stdout=subprocess.PIPE, text=True)
    if r.returncode:
        sys.exit(f"{method} {options}: exit {r.returncode}")
    return json.loads(r.stdout)


failed = 0
for method, options in CASES:
    # A run that has to compile kernels takes memory for that, which the plan does not promise: then the second counts.
    for attempt in range(2):
        o = measure(method, options)
        plan, peak = o["plan_bytes"], o["peak_bytes"]
        pairs = [("device", plan["total"], peak["device"])]
        if "--device-only" not in sys.argv and plan["resident"] > plan["host"]:  # a CPU device, whose memory is the process's
            pairs.append(("resident", plan["resident"], peak["rss"]))
        fine = all(abs(planned / measured - 1) <= 0.1 for _, planned, measured in pairs)
        if fine:
            break
    failed += not fine
    print(f"{'ok  ' if fine else 'FAIL'} {method} {options}: " + "; ".join(
        f"{name} {planned / 2**20:.1f} MiB planned, {measured / 2**20:.1f} measured, ratio {planned / measured:.3f}"
        for name, planned, measured in pairs), flush=True)
sys.exit(1 if failed else 0)
