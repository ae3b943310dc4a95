#!/usr/bin/env python3
"""Every `vireo bench` on small shapes: one JSON object with the promised fields, figures that can be true, and clear
errors. Nothing is held to a time.

usage: bench.py VIREO
"""
import json
import os
import subprocess
import sys
import tempfile

VIREO = sys.argv[1]
SCRATCH = tempfile.mkdtemp(prefix="vireo-bench-test-")
MODEL = {
    "model_type": "qwen2_5_vl", "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3,
    "vision_end_token_id": 4, "tie_word_embeddings": True, "dtype": "float32",
    "text_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                    "intermediate_size": 48, "vocab_size": 300, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
                    "tie_word_embeddings": True, "hidden_act": "silu"},
    "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 40, "patch_size": 14,
                      "window_size": 56, "fullatt_block_indexes": [1], "out_hidden_size": 32, "hidden_act": "silu",
                      "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2},
}
STEP = {"model": MODEL, "image": 84, "prompts": 2, "group": 2, "new_tokens": 4, "text_tokens": 5, "runs": 2}
passed = failed = 0


def check(condition, what):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print(f"FAIL {what}")


def bench(name, config=None):
    command = [VIREO, "bench", name, "--json"]
    if config is not None:
        path = os.path.join(SCRATCH, "config.json")
        with open(path, "w") as f:
            json.dump(config, f)
        command += ["--config", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done


def result(name, config=None):
    done = bench(name, config)
    lines = done.stdout.strip().splitlines()
    check(done.returncode == 0 and len(lines) == 1, f"{name}: one line, exit 0, not {done.returncode}: {done.stderr[-300:]}")
    return json.loads(lines[-1]) if lines else {}


def positive(value, what):
    check(isinstance(value, (int, float)) and value > 0, f"{what} is {value}")


def products():
    shapes = [{"product": p, "m": 40, "n": 32, "k": 24, "a_type": a, "b_type": b}
              for p in ("nt", "nn", "tn") for a, b in (("f32", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("f16", "f16"))]
    r = result("gemm", {"shapes": shapes, "seconds": 0.001, "runs": 2})
    check(len(r["results"]) == len(shapes), "gemm: a result a shape")
    for row, shape in zip(r["results"], shapes):
        check(all(row[k] == v for k, v in shape.items()), f"gemm: {shape} is named in its result")
        positive(row["gflops_per_cpu_second"], "gemm: gflops_per_cpu_second")
    attention = {"shapes": [{"kind": "decode", "heads": 2, "kv_heads": 1, "head_dim": 16, "groups": 2, "prompt": 9,
                             "completions": 2, "length": 3}], "seconds": 0.001, "runs": 2}
    r = result("attention", attention)
    positive(r["results"][0]["forward"]["gflops"], "attention: gflops")
    r = result("logprob", {"rows": 30, "hidden_size": 32, "vocab_size": 300, "runs": 2})
    for name in ("forward", "forward_backward"):
        positive(r[name]["gflops"], f"logprob: {name}.gflops")


def steps():
    for dtype in ("fp32", "bf16", "fp16"):
        r = result("grpo", {**STEP, "dtype": dtype})
        for phase in ("step", "rollout", "reference", "update"):
            positive(r["seconds_min"][phase], f"grpo {dtype}: seconds_min.{phase}")
            positive(r["cpu_seconds_min"][phase], f"grpo {dtype}: cpu_seconds_min.{phase}")
            check(r["seconds_median"][phase] >= r["seconds_min"][phase], f"grpo {dtype}: the median is not below the least")
        parts = sum(v for k, v in r["seconds_min"].items() if k != "step")
        check(parts <= 1.2 * r["seconds_median"]["step"], f"grpo {dtype}: the phases are parts of the step")
        positive(r["peak_bytes"]["device"], "peak_bytes.device")
        # Never far below what the mathematics needs (a step may reuse the rollout's forward: a fifth less).
        check(0.6 < r["flops"]["ratio"] < 1.6, f"grpo {dtype}: counted over necessary work is {r['flops']['ratio']}")
    r = result("sft", STEP)
    positive(r["seconds_min"]["step"], "sft: seconds_min.step")
    check(0.8 < r["flops"]["ratio"] < 1.6, f"sft: counted over necessary work is {r['flops']['ratio']}")
    r = result("grpo", {**STEP, "profile": True})
    check({"gemm", "attention"} <= {p["kernel"].split("_")[0] for p in r["profile"]}, "grpo: the profile names kernels")


def engine():
    r = result("decode", STEP)
    check(r["sequences"] == 4, "decode: sequences")
    positive(r["tokens_per_cpu_second"], "decode: tokens_per_cpu_second")
    r = result("prefill", STEP)
    check(r["prompt_tokens"] == 5 + 2 + 9, f"prefill: words, image tokens and two markers, not {r['prompt_tokens']}")
    positive(r["tokens_per_s"], "prefill: tokens_per_s")
    r = result("load", {"model": MODEL, "runs": 2})
    check(r["bytes"] > 4 * 300 * 32, "load: bytes of the weights")
    positive(r["bytes_per_s"], "load: bytes_per_s")


def tune():
    command = [VIREO, "tune", "--json", "--seconds", "0.01", "--most-mflop", "20", "--cache", os.path.join(SCRATCH, "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "VIREO_GEMM": "tile"})
    check(done.returncode == 0, f"tune: {done.stderr[-300:]}")
    r = json.loads(done.stdout) if done.returncode == 0 else {"results": [], "file": ""}
    check(len(r["results"]) == 1 and os.path.exists(r["file"]), "tune: one class in so short a time, and its file")
    for row in r["results"]:
        check(0 <= row["tile"] < 3 and 0 < row["seconds"] <= row["formula_seconds"], f"tune: {row}")
    for bad in (["--seconds", "0"], ["--seconds", "nan"], ["nonsense"], ["--cache"]):
        done = subprocess.run([VIREO, "tune", *bad], capture_output=True, text=True, timeout=60)
        check(done.returncode == 64 and "usage: vireo tune" in done.stderr, f"tune {bad} shows the usage")


def errors():
    for name, config, word in (("grpo", {}, "model"), ("gemm", {"shapes": [{"m": 0}]}, "shapes[0].m"),
                               ("logprob", {"row": 3}, "unknown field"), ("prefill", {"model": MODEL, "image": 1}, "image"),
                               ("load", {"model": {"model_type": "nothing"}}, "nothing")):
        done = bench(name, config)
        check(done.returncode == 1 and word in done.stderr and not done.stdout, f"{name}: {done.stderr[-200:]}")
    done = bench("nonsense")
    check(done.returncode == 64 and "usage" in done.stderr, "an unknown name shows the usage")


products()
steps()
engine()
tune()
errors()
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
