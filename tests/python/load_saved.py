#!/usr/bin/env python3
"""load_saved.py BUILD DATA: what Vireo saves, transformers loads, and both compute the same logits.

Needs torch and transformers (tools/test makes a virtual environment for it). Three folders: the tiny fixture saved again
(old layout, float32), the sharded bfloat16 one saved again, and a model trained by the quick SFT job.
Last line: `N passed, N failed`.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration


def reference(folder, case):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = {k: sorted(v) for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    ids = torch.tensor(case["input_ids"].reshape(1, -1).astype(np.int64))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "pixel_values" in case:
        inputs["pixel_values"] = torch.tensor(case["pixel_values"])
        inputs["image_grid_thw"] = torch.tensor(case["image_grid_thw"].astype(np.int64))
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        return model(**inputs).logits[0].numpy(), problems


def main():
    build, data = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    passed = failed = 0
    folder = tempfile.mkdtemp(prefix="vireo-load-")

    def verdict(name, good, detail):
        nonlocal passed, failed
        passed += good
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {detail}", flush=True)

    def compare(name, model, case_file, tolerance, *how):
        out = os.path.join(folder, "logits.bin")
        subprocess.run([f"{build}/tests/logits", model, case_file, out, *how], check=True, stderr=subprocess.DEVNULL)
        want, problems = reference(model, load_file(case_file))
        got = np.fromfile(out, dtype=np.float32).reshape(want.shape)
        rel = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        verdict(name, rel <= tolerance and not problems, f"relative difference {rel:.2e}, loading problems {problems or 'none'}")

    try:
        cases = os.path.join(data, "fixtures", "cases")
        saved = os.path.join(folder, "saved")
        subprocess.run([f"{build}/tests/logits", f"{data}/fixtures/tiny-qwen2_5_vl", "--save", saved], check=True,
                       stderr=subprocess.DEVNULL)
        for case in ("one_image", "two_images", "text_only"):
            compare(f"float32 folder, {case}", saved, f"{cases}/{case}.safetensors", 2e-5)
        sharded = os.path.join(folder, "sharded")
        subprocess.run([f"{build}/tests/logits", f"{data}/fixtures/tiny-qwen2_5_vl-bf16-sharded", "--save", sharded], check=True,
                       stderr=subprocess.DEVNULL)
        kinds = {str(t.dtype) for t in load_weights(sharded).values()}
        verdict("bfloat16 folder keeps its type", kinds == {"torch.bfloat16"}, str(kinds))
        compare("bfloat16 folder, one_image, activations in float32", sharded, f"{cases}/one_image.safetensors", 2e-5, "f32")
        compare("bfloat16 folder, one_image, activations in bfloat16", sharded, f"{cases}/one_image.safetensors", 0.03)

        subprocess.run([f"{build}/tests/make_quick", folder, "1"], check=True)
        subprocess.run([f"{build}/tests/quick_job", f"{folder}/sft.json", f"{folder}/metrics"], check=True,
                       stderr=subprocess.DEVNULL)
        trained = json.load(open(f"{folder}/sft.json"))["output_folder"]
        tokenizer = AutoTokenizer.from_pretrained(trained)
        text = ("<|im_start|>user\nthe small red circle<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
                "<|im_start|>assistant\n")
        ids = tokenizer(text)["input_ids"]
        pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        ids = [x for i in ids for x in ([i] * 9 if i == pad else [i])]
        rng = np.random.default_rng(1)
        case = os.path.join(folder, "case.safetensors")
        save_file({"input_ids": np.array(ids, np.int32), "image_grid_thw": np.array([[1, 6, 6]], np.int32),
                   "pixel_values": rng.standard_normal((36, 1176)).astype(np.float32)}, case)
        compare("model trained here", trained, case, 2e-5)
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "the small red circle"},
                                                                             {"type": "image"}]}],
                                                 tokenize=False, add_generation_prompt=True)
        verdict("chat template", rendered == text, repr(rendered[:60]))
        for name, text_sizes, vision_sizes, grids, tied, shard in OTHER_SIZES:
            model = os.path.join(folder, "other")
            shutil.rmtree(model, ignore_errors=True)
            make_model(model, f"{data}/fixtures/tiny-qwen2_5_vl", text_sizes, vision_sizes, tied, shard)
            make_case(case, grids)
            compare(f"random model, {name}", model, case, 2e-5)
        # The second has odd widths, which bf16 activations cannot have: they stay in float32.
        name, text_sizes, vision_sizes, grids, tied, shard = OTHER_SIZES[1]
        shutil.rmtree(model)
        make_model(model, f"{data}/fixtures/tiny-qwen2_5_vl", text_sizes, vision_sizes, tied, shard, torch.bfloat16)
        make_case(case, grids)
        compare(f"random model in bfloat16, {name}", model, case, 2e-5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


# name, text sizes, vision sizes, grids of patches, tied, largest shard: sizes that no fixture has.
OTHER_SIZES = [
    ("head size 20, three heads of one key", dict(hidden_size=60, num_attention_heads=3, num_key_value_heads=1,
     intermediate_size=52, num_hidden_layers=2, section=[2, 4, 4]),
     dict(depth=3, hidden_size=36, num_heads=3, intermediate_size=44, window_size=56, fullatt_block_indexes=[2]),
     [[1, 6, 10]], True, "5GB"),
    ("head size 10, odd widths", dict(hidden_size=50, num_attention_heads=5, num_key_value_heads=5, intermediate_size=37,
     num_hidden_layers=3, section=[1, 2, 2]),
     dict(depth=2, hidden_size=40, num_heads=2, intermediate_size=45, window_size=112, fullatt_block_indexes=[0]),
     [[1, 4, 4], [1, 2, 14], [1, 18, 10]], False, "60kB"),
    ("head size 128, as in the large models", dict(hidden_size=256, num_attention_heads=2, num_key_value_heads=1,
     intermediate_size=200, num_hidden_layers=2, section=[16, 24, 24]),
     dict(depth=4, hidden_size=160, num_heads=2, intermediate_size=136, window_size=112, fullatt_block_indexes=[1, 3]),
     [[1, 24, 24], [1, 8, 12]], True, "5GB"),
]


def make_model(folder, side_files, text, vision, tied, shard, dtype=torch.float32):
    from transformers import Qwen2_5_VLConfig
    text, section = dict(text), text["section"]
    del text["section"]
    with open(os.path.join(side_files, "config.json")) as f:
        tiny = json.load(f)
    ids = {k: tiny[k] for k in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    text.update(vocab_size=tiny["vocab_size"], rms_norm_eps=1e-6, max_position_embeddings=2048, tie_word_embeddings=tied,
                rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=section))
    config = Qwen2_5_VLConfig(text_config=text, vision_config=dict(vision, out_hidden_size=text["hidden_size"],
                                                                   hidden_act="silu"), tie_word_embeddings=tied, **ids)
    torch.manual_seed(7)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    with torch.no_grad():
        for w in model.parameters():
            w.copy_(torch.randn_like(w) * 0.08 + (1 if w.dim() == 1 and w.mean() > 0.5 else 0))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    for name in os.listdir(side_files):
        if name not in ("config.json",) and not name.startswith("model") and os.path.isfile(os.path.join(side_files, name)):
            shutil.copy(os.path.join(side_files, name), folder)


def make_case(path, grids):
    with open(os.path.join(sys.argv[2], "fixtures", "tiny-qwen2_5_vl", "config.json")) as f:
        tiny = json.load(f)
    rng = np.random.default_rng(11)
    ids = []
    for t, h, w in grids:
        ids += [int(i) for i in rng.integers(0, 900, 5)] + [tiny["vision_start_token_id"]]
        ids += [tiny["image_token_id"]] * (t * h * w // 4) + [tiny["vision_end_token_id"]]
    ids += [int(i) for i in rng.integers(0, 900, 9)]
    rows = sum(t * h * w for t, h, w in grids)
    save_file({"input_ids": np.array(ids, np.int32), "image_grid_thw": np.array(grids, np.int32),
               "pixel_values": rng.standard_normal((rows, 1176)).astype(np.float32)}, path)


def load_weights(folder):
    from safetensors.torch import load_file as load_torch
    weights = {}
    for name in glob.glob(os.path.join(folder, "*.safetensors")):
        weights.update(load_torch(name))
    return weights


if __name__ == "__main__":
    sys.exit(main())
