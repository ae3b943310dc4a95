#!/usr/bin/env python3
"""kill_job.py BUILD [TRIALS]: a job killed at any point and resumed gives the same bytes as one never interrupted.

Runs the quick SFT and GRPO jobs (tests/crash/make_quick.c) once undisturbed, once more with the same seed, once in each
debug mode of the GPU recorder (a full barrier after every dispatch; independent dispatches in random order), then TRIALS
times (default 20, half each) killed: at named points of writing a checkpoint (write, fsync, rename, commit) and of
writing files, and by SIGKILL at random moments. Compared byte for byte: the metrics of every step without clock
readings, and the weights of the finished model. Last line: `N passed, N failed`.
"""
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

POINTS = ["checkpoint.write", "checkpoint.fsync", "checkpoint.rename", "checkpoint.commit", "file.write", "file.fsync",
          "file.rename", "gpu.submit"]


def run(build, spec, metrics, fault=None, kill_after=None, debug=None, log=None, stop=None, failure=None):
    """One attempt. Returns True when the job finished (or, with stop, saved and stopped after that step). `log` gets the
    lines of its debug log. failure: a job that fails with these words in its error gives False."""
    env = dict(os.environ, VIREO_LOG="error" if log is None else "debug")
    if debug:
        env["VIREO_GPU_DEBUG"] = debug
    env.pop("VIREO_FAULT", None)
    if stop:
        env["VIREO_STOP_AFTER"] = str(stop)
    if fault:
        env["VIREO_FAULT"] = fault
    child = subprocess.Popen([f"{build}/tests/quick_job", spec, metrics], env=env, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
    try:
        _, errors = child.communicate(timeout=kill_after or 600)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return False
    if child.returncode == 0:
        if log is not None:
            log += errors.decode(errors="replace").splitlines()
        return True
    if child.returncode == -9:
        return False
    if failure and child.returncode == 3 and failure in errors.decode():
        return False
    sys.exit(f"quick_job {spec}: exit {child.returncode}: {errors.decode(errors='replace')[-800:]}")


def outcome(spec, metrics):
    """What must be equal: the lines of all steps, and the weights."""
    with open(metrics, "rb") as f:
        lines = f.read()
    with open(os.path.join(json.load(open(spec))["output_folder"], "model.safetensors"), "rb") as f:
        return lines, hashlib.sha256(f.read()).hexdigest()


def fresh(spec, metrics):
    paths = json.load(open(spec))
    shutil.rmtree(paths["work_folder"], ignore_errors=True)
    shutil.rmtree(paths["output_folder"], ignore_errors=True)
    if os.path.exists(metrics):
        os.unlink(metrics)


def changed(folder, spec, **changes):
    other = f"{folder}/changed.json"
    with open(other, "w") as f:
        json.dump(dict(json.load(open(spec)), **changes), f)
    return other


def offload(build, folder, job, verdict):
    """The optimiser's state in a file: no bit of the job depends on it, also where a job that was saved with one choice
    goes on with another; and what happens when the file fails."""
    spec, metrics = f"{folder}/{job}.json", f"{folder}/{job}.metrics"
    for dtype in ("fp32", "bf16"):
        def attempt(offload, **more):
            return run(build, changed(folder, spec, dtype=dtype, offload=offload), metrics, **more)

        fresh(spec, metrics)
        attempt("none")
        want = outcome(spec, metrics)
        fresh(spec, metrics)
        attempt("optimizer" if job == "sft" else "all")
        verdict(f"{job} {dtype}: the optimiser's state in a file, same bytes", outcome(spec, metrics) == want)
        for one, other in (("none", "all"), ("optimizer", "none")):
            fresh(spec, metrics)
            attempt(one, stop=3)
            halfway = not os.path.exists(json.load(open(spec))["output_folder"])
            attempt(other)
            verdict(f"{job} {dtype}: saved with offload {one}, resumed with {other}, same bytes",
                    halfway and outcome(spec, metrics) == want)
        if (job, dtype) != ("sft", "bf16"):
            continue
        work = json.load(open(spec))["work_folder"]
        # A disk that is full when the job resumes and in the middle of step 4; a file that breaks in that step, and
        # while the checkpoint of step 4 is written.
        fresh(spec, metrics)
        attempt("none", stop=3)
        with open(work + "/checkpoints/step-3/optimizer.safetensors", "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        pieces = sum(-(-x["shape"][0] // 32768) for name, x in header.items() if name != "__metadata__")
        for fault in ("write:1", f"write:{2 * pieces + 3}", "read:3", "read:20"):
            fresh(spec, metrics)
            attempt("optimizer", stop=3)
            before = set(os.listdir(work + "/checkpoints"))
            failed = not attempt("optimizer", fault="fail:scratch." + fault, failure="scratch file of the optimizer")
            kept = before <= set(os.listdir(work + "/checkpoints")) and os.listdir(work) == ["checkpoints"]
            steps = len(open(metrics).readlines())
            attempt("optimizer")
            verdict(f"{job} {dtype}: scratch.{fault} fails: checkpoints kept, same bytes after a resume",
                    failed and kept and steps == (4 if fault == "read:20" else 3) and outcome(spec, metrics) == want)


def convert(folder, dtype):
    """Rewrites an fp32 model folder in 16 bits: fp16 (rounded) or bf16 (cut)."""
    path = folder + "/model.safetensors"
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(size)), f.read()
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32"
            entry.update(dtype="F16" if dtype == "float16" else "BF16", data_offsets=[x // 2 for x in entry["data_offsets"]])
    n = len(data) // 4
    if dtype == "float16":
        data = struct.pack(f"<{n}e", *struct.unpack(f"<{n}f", data))
    else:
        data = b"".join(data[4 * i + 2:4 * i + 4] for i in range(n))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)
    config = json.load(open(folder + "/config.json"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    with open(folder + "/config.json", "w") as f:
        json.dump(config, f)


def halves(build, folder, job, verdict):
    """fp16: a loss scale that is too large at first skips steps and changes no weight by them; it goes on after a resume.
    Models stored in 16 bits: what the folder rounds is resumed from the optimiser's file."""
    spec, metrics = f"{folder}/{job}.json", f"{folder}/{job}.metrics"
    stored = folder + "/stored"
    base = json.load(open(spec))["model_folder"]

    def attempt(stop=None, **changes):
        run(build, changed(folder, spec, **changes), metrics, stop=stop)
        with open(metrics) as f:
            return [json.loads(line) for line in f]

    scaled = {"dtype": "fp16", "initial_scale_power": 26, "loss_scale_window": 1}
    fresh(spec, metrics)
    rows = attempt(**scaled)
    want, skipped = outcome(spec, metrics), [r["grad_norm"] is None for r in rows]
    scale, overflows, good = 2.0 ** 26, 0, skipped[0] and not all(skipped)
    for row, skip in zip(rows, skipped):
        overflows += skip
        good = good and row["loss_scale"] == scale and row["loss_scale_overflows"] == overflows and row["loss"] is not None
        scale = scale / 2 if skip else scale * 2
    verdict(f"{job} fp16: a step whose gradients overflow is skipped, the scale halved, then doubled", good, str(skipped))
    if job == "grpo":
        verdict("grpo fp16: rollout and training log-probs are the same bits",
                all(r["sampling/sampling_logp_difference/max"] == 0 for r in rows))
    first = skipped.index(False)
    fresh(spec, metrics)
    attempt(stop=first + 1, **scaled)
    attempt(**scaled)
    verdict(f"{job} fp16: the loss scale goes on after a resume, same bytes", outcome(spec, metrics) == want)
    # Nothing but skipped steps: the weights are those the job began with, which fp16 rounds once.
    fresh(spec, metrics)
    rows = attempt(**dict(scaled, initial_scale_power=32), max_steps=2, model_folder=base)
    with open(base + "/model.safetensors", "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header, start = json.loads(f.read(size)), f.read()
    with open(json.load(open(spec))["output_folder"] + "/model.safetensors", "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        other, end = json.loads(f.read(size)), f.read()
    good = rows[0]["grad_norm"] is None and not any(r["grad_norm"] for r in rows)  # 0: a step of equal rewards
    for name, entry in header.items():
        if name != "__metadata__":
            (a, b), (c, d) = entry["data_offsets"], other[name]["data_offsets"]
            was = struct.unpack(f"<{(b - a) // 4}f", start[a:b])
            rounded = was if len(entry["shape"]) == 1 else \
                struct.unpack(f"<{len(was)}e", struct.pack(f"<{len(was)}e", *was))
            good = good and rounded == struct.unpack(f"<{(d - c) // 4}f", end[c:d])
    verdict(f"{job} fp16: skipped steps change no weight", good)
    for dtype in ("float16", "bfloat16") if job == "sft" else ("float16",):
        shutil.rmtree(stored, ignore_errors=True)
        shutil.copytree(base, stored)
        convert(stored, dtype)
        for own in ("auto", "fp32"):
            changes = {"dtype": own, "model_folder": stored, "max_steps": 4}
            fresh(spec, metrics)
            attempt(**changes)
            want = outcome(spec, metrics)
            fresh(spec, metrics)
            attempt(stop=3, **changes)
            halfway = not os.path.exists(json.load(open(spec))["output_folder"])
            attempt(**changes)
            verdict(f"{job} {own} of a model stored in {dtype}: saved and resumed, same bytes",
                    halfway and outcome(spec, metrics) == want)
    fresh(spec, metrics)  # the next job begins with what this one makes
    run(build, spec, metrics)


def main():
    build, trials = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    rng = random.Random(int(os.environ.get("VIREO_TEST_SEED", "1")))
    passed = failed = 0
    folder = tempfile.mkdtemp(prefix="vireo-kill-")

    def verdict(name, good, detail=""):
        nonlocal passed, failed
        passed += good
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)

    try:
        subprocess.run([f"{build}/tests/make_quick", folder, "1"], check=True)
        for job in ("sft", "grpo"):
            spec, metrics = f"{folder}/{job}.json", f"{folder}/{job}.metrics"
            steps = json.load(open(spec))["max_steps"]
            fresh(spec, metrics)
            run(build, spec, metrics)  # compiles the kernels
            fresh(spec, metrics)
            start = time.monotonic()
            run(build, spec, metrics)
            seconds = time.monotonic() - start
            want = outcome(spec, metrics)
            rows = [json.loads(line) for line in want[0].splitlines()]
            verdict(f"{job}: one line a step", [r["step"] for r in rows] == list(range(1, steps + 1)))
            verdict(f"{job}: every step has a gradient", all(r["grad_norm"] > 0 for r in rows))
            fresh(spec, metrics)
            run(build, spec, metrics)
            verdict(f"{job}: same seed, same bytes", outcome(spec, metrics) == want)
            for mode in ("barriers", "shuffle=7"):
                fresh(spec, metrics)
                run(build, spec, metrics, debug=mode)
                verdict(f"{job}: recorder's debug mode {mode}, same bytes", outcome(spec, metrics) == want)
            if job == "grpo":
                # The update from the rollout's activations, as above, and with a training forward of its own. The
                # fault: memory for activations ends in the middle of a rollout; then that step computes them, the others adopt.
                bf16 = {"dtype": "bf16", "drop_zero_std_groups": True, "max_steps": 3}
                for changes, fault in (({}, None), ({"micro_batch_size": 1, "leaves": 2}, None),
                                       ({"freeze_vision": True}, None), (bf16, None), (bf16, "fail:kept.new:300")):
                    both, counts = [], []
                    for keep in (True, False):
                        other, log = changed(folder, spec, keep_activations=keep, **changes), []
                        fresh(other, metrics)
                        run(build, other, metrics, fault=fault, log=log)
                        both.append(outcome(other, metrics))
                        counts.append([sum(f"activations {how}" in line for line in log)
                                       for how in ("adopted", "computed")])
                    (adopted, again), computed = counts[0], counts[1][1]
                    good = both[0] == both[1] and 0 < adopted == computed - again and counts[1][0] == 0 and \
                        (again > 0) == (fault is not None)
                    rows = [json.loads(line) for line in both[0][0].splitlines()]
                    if changes is bf16: # groups were dropped, and completions ended at different lengths
                        good = good and any(0 < r["frac_reward_zero_std"] < 1 for r in rows) and \
                            any(r["completions/min_length"] < r["completions/max_length"] for r in rows)
                    verdict(f"grpo: activations kept or computed again, same bytes {changes or ''} {fault or ''}".rstrip(),
                            good, f"{adopted} of {computed} micro-batches adopted")
            offload(build, folder, job, verdict)
            halves(build, folder, job, verdict)
            kills = 0
            for trial in range(trials // 2):
                fresh(spec, metrics)
                attempts = 0
                if trial < len(POINTS):
                    # A quick job commits three checkpoints; writes and submits are many.
                    most = 3 if POINTS[trial] in ("checkpoint.rename", "checkpoint.commit", "file.rename") else 12
                    fault = f"kill:{POINTS[trial]}:{rng.randint(1, most)}"
                    how = fault
                    finished = run(build, spec, metrics, fault=fault)
                else:
                    delay = rng.uniform(0.3, 0.95) * seconds
                    how = f"SIGKILL after {delay:.2f} s"
                    finished = run(build, spec, metrics, kill_after=delay)
                kills += not finished
                while not finished and attempts < 5:
                    attempts += 1
                    # A second blow while it recovers, now and then.
                    again = rng.uniform(0.3, 0.9) * seconds if attempts == 1 and rng.random() < 0.3 else None
                    finished = run(build, spec, metrics, kill_after=again)
                same = finished and outcome(spec, metrics) == want
                left = [x for x in os.listdir(json.load(open(spec))["work_folder"] + "/checkpoints") if x.endswith(".tmp")]
                verdict(f"{job}: {how}, resumed {attempts} times", same and not left, f"left {left}" if left else "")
            verdict(f"{job}: at least half of the trials were killed", kills * 2 >= trials // 2, f"{kills} kills")
        if job == "grpo":
            rows = [json.loads(line) for line in want[0].splitlines()]
            verdict("grpo: rollout and training log-probs are equal in every step",
                    all(r["sampling/sampling_logp_difference/max"] == 0 for r in rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
