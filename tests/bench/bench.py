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


FIELDS = {"what", "flops", "bytes", "seconds", "gflop_per_s", "gbyte_per_s", "roofline_fraction", "bound"}


def near(a, b):
    return abs(a - b) <= 1e-9 * abs(b)


def rooflines(value):
    """All of them in a result."""
    if isinstance(value, list):
        return [r for x in value for r in rooflines(x)]
    if not isinstance(value, dict):
        return []
    found = [value["roofline"]] if "roofline" in value else []
    return found + [r for k, x in value.items() if k != "roofline" for r in rooflines(x)]


def held_to_rooflines(name, r, count):
    """The promised fields, and figures that follow from one another."""
    rate = r.get("device_rate", {})
    for key in ("gflop_per_s", "gbyte_per_s"):
        positive(rate.get(key), f"{name}: device_rate.{key}")
    found = rooflines({k: v for k, v in r.items() if k != "device_rate"})
    check(len(found) == count, f"{name}: {len(found)} rooflines, not {count}")
    for line in found:
        check(set(line) == FIELDS, f"{name}: fields of {line}")
        flops, moved, seconds = line["flops"], line["bytes"], line["seconds"]
        check(near(line["gflop_per_s"], 1e-9 * flops / seconds), f"{name}: gflop_per_s of {line}")
        check(near(line["gbyte_per_s"], 1e-9 * moved / seconds), f"{name}: gbyte_per_s of {line}")
        times = {"compute": 1e-9 * flops / rate["gflop_per_s"], "memory": 1e-9 * moved / rate["gbyte_per_s"]}
        check(line["bound"] == max(times, key=times.get), f"{name}: bound of {line}")
        check(near(line["roofline_fraction"], max(times.values()) / seconds), f"{name}: roofline_fraction of {line}")
    return found


def tables():
    path = os.path.join(SCRATCH, "table.json")
    with open(path, "w") as f:
        json.dump({"shapes": [{"m": 8, "n": 8, "k": 8}], "seconds": 0.001, "runs": 2}, f)
    done = subprocess.run([VIREO, "bench", "gemm", "--config", path], capture_output=True, text=True, timeout=600)
    for word in ("device_rate.gflop_per_s", "fraction", "nt 8 x 8 x 8"):
        check(word in done.stdout, f"gemm without --json shows {word}: {done.stdout[:300]}")


def products():
    shapes = [{"product": p, "m": 40, "n": 32, "k": 24, "a_type": a, "b_type": b}
              for p in ("nt", "nn", "tn") for a, b in (("f32", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("f16", "f16"))]
    r = result("gemm", {"shapes": shapes, "seconds": 0.001, "runs": 2})
    check(len(r["results"]) == len(shapes), "gemm: a result a shape")
    for row, shape in zip(r["results"], shapes):
        check(all(row[k] == v for k, v in shape.items()), f"gemm: {shape} is named in its result")
        positive(row["gflops_per_cpu_second"], "gemm: gflops_per_cpu_second")
    for line, shape in zip(held_to_rooflines("gemm", r, len(shapes)), shapes):
        size = {"f32": 4, "bf16": 2, "f16": 2}
        check(line["flops"] == 2 * 40 * 32 * 24, f"gemm: flops of {line}")
        # A, B and C by the product's kind: nt A [m, k], B [n, k]; all have m k and n k elements.
        moved = size[shape["a_type"]] * 40 * 24 + size[shape["b_type"]] * 32 * 24 + 4 * 40 * 32
        check(line["bytes"] == moved, f"gemm: bytes of {line}")
    shape = {"heads": 2, "kv_heads": 1, "head_dim": 16, "groups": 2, "prompt": 20, "completions": 2, "length": 3}
    kinds = ("text", "window", "decode", "paged")
    r = result("attention", {"shapes": [{"kind": kind, **shape} for kind in kinds], "seconds": 0.001, "runs": 2})
    check([row["kind"] for row in r["results"]] == list(kinds), "attention: a result a kind")
    for row in r["results"]:
        positive(row["forward"]["gflops"], f"attention, {row['kind']}: gflops")
        check(("backward" in row) == (row["kind"] in ("text", "window")), f"attention, {row['kind']}: backward")
    lines = held_to_rooflines("attention", r, 6)
    decode, paged = lines[4:]
    check(decode["flops"] == paged["flops"] == 4 * 2 * 16 * 4 * 23, "attention: flops of a decode step")
    # Rows' q, o and log-sum-exp; keys and values of 2 x (20 + 2 x 3) slots, in pages of 2 x (1 + 2 x 1) x 16.
    check(decode["bytes"] == 4 * (4 * (2 * 32 + 2) + 52 * 32), "attention: bytes of a decode step")
    check(paged["bytes"] == 4 * (4 * (2 * 32 + 2) + 96 * 32), "attention: bytes of a paged decode step")
    r = result("logprob", {"rows": 30, "hidden_size": 32, "vocab_size": 300, "runs": 2})
    for name in ("forward", "forward_backward"):
        positive(r[name]["gflops"], f"logprob: {name}.gflops")
    held_to_rooflines("logprob", r, 2)


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
        held_to_rooflines(f"grpo {dtype}", r, 1)
        check(0.6 < r["flops"]["ratio"] < 1.6, f"grpo {dtype}: counted over necessary work is {r['flops']['ratio']}")
    r = result("sft", STEP)
    positive(r["seconds_min"]["step"], "sft: seconds_min.step")
    held_to_rooflines("sft", r, 1)
    check(0.8 < r["flops"]["ratio"] < 1.6, f"sft: counted over necessary work is {r['flops']['ratio']}")
    r = result("grpo", {**STEP, "profile": True})
    check({"gemm", "attention"} <= {p["kernel"].split("_")[0] for p in r["profile"]}, "grpo: the profile names kernels")


def engine():
    r = result("decode", STEP)
    check(r["sequences"] == 4, "decode: sequences")
    positive(r["tokens_per_cpu_second"], "decode: tokens_per_cpu_second")
    held_to_rooflines("decode", r, 1)
    r = result("prefill", STEP)
    check(r["prompt_tokens"] == 5 + 2 + 9, f"prefill: words, image tokens and two markers, not {r['prompt_tokens']}")
    positive(r["tokens_per_s"], "prefill: tokens_per_s")
    held_to_rooflines("prefill", r, 1)
    r = result("load", {"model": MODEL, "runs": 2})
    check(r["bytes"] > 4 * 300 * 32, "load: bytes of the weights")
    positive(r["bytes_per_s"], "load: bytes_per_s")
    line, = held_to_rooflines("load", r, 1)
    check(line["flops"] == 0 and line["bytes"] == r["bytes"] and line["bound"] == "memory", f"load: {line}")


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
tables()
steps()
engine()
tune()
errors()
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
