#!/usr/bin/env python3
"""ahead.py BUILD: work done ahead or once never shows in what a job does.

The next step's pictures and prompts are prepared while the device works, rewards while others decode, and what a frozen
vision tower makes of a picture is kept: on the quick jobs (tests/crash/make_quick.c) this gives the same bytes as without,
computes each distinct picture of a step once (also under two names), reports an error of a step's data in that step and
not before, and stops and goes on like any job. Last line: `N passed, N failed`.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from kill_job import changed, fresh, outcome, run

failed = passed = 0


def verdict(name, good, detail=""):
    global passed, failed
    passed += bool(good)
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {name}{': ' + str(detail) if detail and not good else ''}", flush=True)


def pictures(log, who):
    """(step, computed, known) of every batch of this tower, in order."""
    found = re.findall(rf"step (\d+), {who}: (\d+) pictures computed, (\d+) known", "\n".join(log))
    return [tuple(map(int, f)) for f in found]


def job(build, folder, spec, metrics, **changes):
    log, other = [], changed(folder, spec, **changes)
    fresh(other, metrics)
    run(build, other, metrics, log=log)
    return outcome(other, metrics), log


def kept(build, folder):
    """Rows 0 to 7 ask about four pictures, two a step; four steps of four rows are two epochs."""
    spec, metrics = f"{folder}/grpo.json", f"{folder}/grpo.metrics"
    lines = open(json.load(open(spec))["training_file"]).read().splitlines()[:8]
    images = dict(json.load(open(spec))["images"])

    def write(rows, name):
        with open(f"{folder}/rft/{name}.jsonl", "w") as f:
            f.write("\n".join(rows) + "\n")
        return f"{folder}/rft/{name}.jsonl"

    base = {"training_file": write(lines, "few"), "images": images, "max_steps": 4, "save_steps": 0, "shuffle": False,
            "n_epochs": 2}
    for more in ({}, {"micro_batch_size": 1}, {"freeze_vision": True}, {"freeze_vision": True, "keep_activations": False},
                 {"dtype": "bf16"}, {"offload": "reference"}):
        with_pool, log = job(build, folder, spec, metrics, **base, **more)
        without, plain = job(build, folder, spec, metrics, **base, **more, keep_features=False)
        verdict(f"grpo {more}: features kept, same bytes", with_pool == without)
        computed = {}
        for step, fresh_ones, _ in pictures(log, "reference"):
            computed[step] = computed.get(step, 0) + fresh_ones
        verdict(f"grpo {more}: the reference computes each picture once, the second epoch none",
                computed == {1: 2, 2: 2, 3: 0, 4: 0}, computed)
        verdict(f"grpo {more}: without, every batch computes its own",
                pictures(plain, "reference") and all(k == 0 for _, _, k in pictures(plain, "reference")))
        if "keep_activations" in more: # the policy's frozen tower is the reference's: nothing is left to compute
            verdict(f"grpo {more}: nor does the policy's frozen tower",
                    len(pictures(log, "policy")) == 4 and all(c == 0 for _, c, _ in pictures(log, "policy")))
    # A picture under two names is one; its group's other names change nothing but the row's reference.
    shown = re.findall(r"shapes-[\w.-]*?\.png", lines[0])
    twin = "twin-of-the-first.png"
    shutil.copyfile(images[shown[0]], f"{folder}/rft/{twin}")
    renamed = [lines[0], lines[1].replace(shown[0], twin)] + lines[2:]
    options = dict(base, images=dict(images, **{twin: f"{folder}/rft/{twin}"}), training_file=write(renamed, "twin"))
    want, _ = job(build, folder, spec, metrics, **base)
    for keep in (True, False):
        got, log = job(build, folder, spec, metrics, **options, keep_features=keep)
        verdict(f"grpo: one picture under two names is computed once, same bytes (kept {keep})",
                renamed != lines and got == want and pictures(log, "reference")[0] == (1, 2, 0),
                pictures(log, "reference")[:1])
    # SFT with a frozen tower.
    spec, metrics = f"{folder}/sft.json", f"{folder}/sft.metrics"
    rows = open(json.load(open(spec))["training_file"]).read().splitlines()[:16]
    with open(f"{folder}/sft/few.jsonl", "w") as f:
        f.write("\n".join(rows) + "\n")
    base = {"training_file": f"{folder}/sft/few.jsonl", "max_steps": 4, "save_steps": 0, "n_epochs": 2,
            "freeze_vision": True}
    with_pool, log = job(build, folder, spec, metrics, **base)
    without, _ = job(build, folder, spec, metrics, **base, keep_features=False)
    verdict("sft: a frozen tower's features kept, same bytes", with_pool == without)
    verdict("sft: each picture is computed once", sum(c for _, c, _ in pictures(log, "policy")) == 16, pictures(log, "policy"))
    trained = [x for x in pictures(job(build, folder, spec, metrics, **dict(base, freeze_vision=False))[1], "policy")]
    verdict("sft: a tower that is trained computes them every time", sum(c for _, c, _ in trained) == 32)


def broken(build, folder, name):
    """A picture of step 3 cannot be read: steps 1 and 2 take place, and the error names the step."""
    spec, metrics = f"{folder}/{name}.json", f"{folder}/{name}.metrics"
    s = json.load(open(spec))
    rows = open(s["training_file"]).read().splitlines()
    at = 2 * s["batch_size"] + 3 # not among the rows that are looked at when a job opens
    picture, name_of_bad, bad = re.findall(r"shapes-[\w.-]*?\.png", rows[at])[0], "bad.png", f"{folder}/bad.png"
    rows[at] = rows[at].replace(picture, name_of_bad)
    with open(s["images"][picture], "rb") as f, open(bad, "wb") as g:
        g.write(f.read()[:-40])
    with open(f"{s['training_file']}.bad", "w") as f:
        f.write("\n".join(rows) + "\n")
    options = {"shuffle": False, "training_file": f"{s['training_file']}.bad"}
    other = changed(folder, spec, **options, images=dict(s["images"], **{name_of_bad: bad}))
    fresh(other, metrics)
    env = dict(os.environ, VIREO_LOG="error")
    r = subprocess.run([f"{build}/tests/quick_job", other, metrics], env=env, capture_output=True, text=True)
    steps = len(open(metrics).read().splitlines())
    verdict(f"{name}: a picture that cannot be decoded fails its own step",
            r.returncode == 3 and steps == 2 and re.search(rf"step 3: .*{re.escape(name_of_bad)}", r.stderr), r.stderr[-300:])
    # Told to stop before that step, the job never hears of it.
    fresh(other, metrics)
    run(build, other, metrics, stop=2)
    good = changed(folder, spec, **options, images=dict(s["images"], **{name_of_bad: s["images"][picture]}))
    run(build, good, metrics)
    resumed = outcome(good, metrics)
    fresh(good, metrics)
    run(build, good, metrics)
    verdict(f"{name}: stopped before that step and resumed with the picture repaired, same bytes",
            resumed == outcome(good, metrics))


def main():
    build = os.path.abspath(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="vireo-ahead-")
    try:
        subprocess.run([f"{build}/tests/make_quick", folder, "1"], check=True)
        run(build, f"{folder}/sft.json", f"{folder}/sft.metrics")
        shutil.copytree(f"{folder}/out-sft", f"{folder}/start") # grpo starts from sft's result, which later runs replace
        spec = json.load(open(f"{folder}/grpo.json"))
        with open(f"{folder}/grpo.json", "w") as f:
            json.dump(dict(spec, model_folder=f"{folder}/start"), f)
        kept(build, folder)
        for name in ("sft", "grpo"):
            broken(build, folder, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
