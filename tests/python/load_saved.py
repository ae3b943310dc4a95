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

    def compare(name, model, case_file, tolerance):
        out = os.path.join(folder, "logits.bin")
        subprocess.run([f"{build}/tests/logits", model, case_file, out], check=True, stderr=subprocess.DEVNULL)
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
        compare("bfloat16 folder, one_image", sharded, f"{cases}/one_image.safetensors", 2e-5)

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
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def load_weights(folder):
    from safetensors.torch import load_file as load_torch
    weights = {}
    for name in glob.glob(os.path.join(folder, "*.safetensors")):
        weights.update(load_torch(name))
    return weights


if __name__ == "__main__":
    sys.exit(main())
