"""plan.py BUILD: the memory plan of a job against the device bytes it took, within 10 %."""
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
# The plan counts a ring for uploads (16 MiB), which GPUs need, and on CPU drivers an offloaded reference only: the sizes
# are such that this is within the tenth.
CASES = [("grpo", {}), ("grpo", {"gradient_checkpointing": True, "offload": "reference"}),
         ("grpo", {"dtype": "bf16", "gradient_checkpointing": True}), ("sft", {"prompts": 16}),
         ("grpo", {"dtype": "bf16", "gradient_checkpointing": True, "offload": "all"}),
         ("sft", {"prompts": 16, "offload": "optimizer"})]

failed = 0
for method, options in CASES:
    config = {"model": MODEL, "image": 112, "prompts": 4, "group": 8, "new_tokens": 64, "text_tokens": 24, "runs": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({**config, **options}, f)
        f.flush()
        r = subprocess.run([sys.argv[1] + "/vireo", "bench", method, "--config", f.name, "--json"],
                           stdout=subprocess.PIPE, text=True)
    if r.returncode:
        sys.exit(f"{method} {options}: exit {r.returncode}")
    o = json.loads(r.stdout)
    planned, measured = o["plan_bytes"]["total"], o["peak_bytes"]["device"]
    fine = abs(planned / measured - 1) <= 0.1
    failed += not fine
    print(f"{'ok  ' if fine else 'FAIL'} {method} {options}: planned {planned / 2**20:.1f} MiB, "
          f"measured {measured / 2**20:.1f} MiB, ratio {planned / measured:.3f}")
sys.exit(1 if failed else 0)
