#!/usr/bin/env python3
"""Times Vireo beside TRL's trainer and hand-written torch, interleaved in one run, and writes the tables.

usage: compare.py --vireo BINARY [--rounds N] [--runs N] [--only SECTION,...] [--write FILE] [--results FILE]
Sections: grpo, large, sft, gemm, group. Called by tools/bench-peers, in the Python environment that it makes.

Each round runs every program of a section once, so that whatever else the machine does falls on all of them. A figure is
the least over all rounds of the CPU seconds of all threads; wall seconds and medians stand beside it.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- bench-peers -->", "<!-- end -->"


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vireo", required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--only", default="gemm,grpo,sft,group,large")
    p.add_argument("--cache", default="")
    p.add_argument("--write", help="a Markdown file whose table is replaced")
    p.add_argument("--results", help="every line that was measured, as JSON")
    return p.parse_args()


class Run:
    """The programs, and all lines they printed: lines[(case, program)] = [object, ...]."""

    def __init__(self, o):
        self.o, self.lines = o, {}
        self.scratch = tempfile.mkdtemp(prefix="vireo-peers-")

    def keep(self, case, program, text):
        line = json.loads(text.strip().splitlines()[-1])
        self.lines.setdefault((case, program), []).append(line)
        if self.o.results:
            with open(self.o.results, "a") as f:
                f.write(json.dumps({"case": case, "program": program, **line}) + "\n")

    def command(self, case, program, command, **environment):
        print(f"  {case}: {program}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, **environment})
        if done.returncode:
            print(f"  failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        else:
            self.keep(case, program, done.stdout)

    def config(self, name, **changes):
        with open(os.path.join(HERE, name + ".json")) as f:
            config = json.load(f)
        config.update({"runs": self.o.runs, **changes})
        return config

    def vireo(self, case, program, bench, config, **environment):
        command = [self.o.vireo, "bench", bench, "--json"]
        if self.o.cache:
            command += ["--cache", self.o.cache]
        if config is not None:
            path = os.path.join(self.scratch, "config.json")
            with open(path, "w") as f:
                json.dump(config, f)
            command += ["--config", path]
        self.command(case, program, command, **environment)

    def torch(self, case, program, script, config, *more):
        path = os.path.join(self.scratch, "model.json")
        with open(path, "w") as f:
            json.dump(config["model"], f)
        command = [sys.executable, os.path.join(HERE, script), "--config", path, "--threads", "2"]
        for key in ("image", "prompts", "group", "new_tokens", "text_tokens", "beta", "runs"):
            command += ["--" + key.replace("_", "-"), str(config[key])]
        self.command(case, program, command + list(more))

    def values(self, case, program, path):
        found = []
        for line in self.lines.get((case, program), []):
            for key in path:
                line = line.get(key) if isinstance(line, dict) else None
            if line is not None:
                found.append(line)
        return found

    def least(self, case, program, *path):
        """Least value at path over all lines; None where nothing was measured."""
        return min(self.values(case, program, path), default=None)

    def median(self, case, program, *path):
        values = self.values(case, program, path)
        return statistics.median(values) if values else None


def measure_grpo(run):
    for case in ("grpo-4m-112px", "grpo-4m-336px"):
        run.vireo(case, "Vireo, fp32", "grpo", run.config(case))
        run.torch(case, "TRL", "trl_grpo_baseline.py", run.config(case), "--mode", "trl")
        run.vireo(case, "Vireo, bf16", "grpo", run.config(case, dtype="bf16"))
        run.torch(case, "hand-written torch", "trl_grpo_baseline.py", run.config(case), "--mode", "best")


def measure_large(run):
    case = "grpo-100m-112px"
    run.vireo(case, "Vireo, fp32", "grpo", run.config(case, runs=1))
    config = run.config(case)
    config["runs"] = 1
    run.torch(case, "TRL", "trl_grpo_baseline.py", config, "--mode", "trl")
    run.vireo(case, "Vireo, bf16", "grpo", run.config(case, runs=1, dtype="bf16"))
    run.vireo(case, "Vireo, bf16, offloaded", "grpo",
              run.config(case, runs=1, dtype="bf16", offload="all", gradient_checkpointing=True))


def measure_sft(run):
    config = run.config("grpo-4m-112px", prompts=32)
    run.vireo("sft-4m-112px", "Vireo, fp32", "sft", config)
    run.torch("sft-4m-112px", "hand-written torch", "torch_sft.py", config)
    run.vireo("sft-4m-112px", "Vireo, bf16", "sft", run.config("grpo-4m-112px", prompts=32, dtype="bf16"))


GEMM_TYPES = {"f32": "f32", "bf16": "bf16"}


def measure_gemm(run):
    for name, kind in GEMM_TYPES.items():
        shapes = [{"product": p, "m": m, "n": n, "k": k, "a_type": kind, "b_type": kind}
                  for m, n, k in ((512, 512, 512), (2048, 768, 768)) for p in ("nt", "nn", "tn")]
        run.vireo("gemm", "Vireo, " + name, "gemm", {"shapes": shapes, "seconds": 0.1}, LP_NUM_THREADS="1")
    run.command("gemm", "torch", [sys.executable, os.path.join(HERE, "torch_gemm.py")])


def measure_group(run):
    for group in (2, 16):
        run.vireo(f"grpo-4m-336px, G = {group}", "Vireo, fp32", "grpo", run.config("grpo-4m-336px", group=group))


SECTIONS = {"gemm": measure_gemm, "grpo": measure_grpo, "sft": measure_sft, "group": measure_group, "large": measure_large}


def cpu(run, case, program, phase="step"):
    return run.least(case, program, "cpu_seconds_min", phase)


def ratio(a, b):
    return a / b if a and b else None


def gemm_best(run, program, m, kind):
    rates = [r["gflops_per_cpu_second"] for line in run.lines.get(("gemm", program), []) for r in line["results"]
             if r["m"] == m and r["product"] == kind]
    return max(rates) if rates else None


def figures(run):
    """Rows of the table: what, floor, aim, value."""
    out = []
    for case, floors in (("grpo-4m-112px", ((1.0, 1.6), (1.4, 2.5), (0.5, 1.0))),
                         ("grpo-4m-336px", ((2.0, 3.5), (3.0, 6.0), (0.7, 1.5)))):
        for program, (floor, aim) in zip(("Vireo, fp32", "Vireo, bf16"), floors):
            out.append((f"{case}: TRL's CPU seconds / {program}'s", floor, aim,
                        ratio(cpu(run, case, "TRL"), cpu(run, case, program))))
        out.append((f"{case}: hand-written torch's / Vireo's, fp32", *floors[2],
                    ratio(cpu(run, case, "hand-written torch"), cpu(run, case, "Vireo, fp32"))))
    case = "grpo-100m-112px"
    for program, floor, aim in (("Vireo, fp32", 0.6, 1.0), ("Vireo, bf16", 0.9, 1.7)):
        out.append((f"{case}: TRL's CPU seconds / {program}'s", floor, aim,
                    ratio(cpu(run, case, "TRL"), cpu(run, case, program))))
    for program, floor, aim in (("Vireo, fp32", 1.4, 1.7), ("Vireo, bf16, offloaded", 2.0, 4.0)):
        rss = run.least(case, program, "peak_bytes", "rss")
        trl = run.least(case, "TRL", "peak_rss_mib")
        out.append((f"{case}: TRL's peak resident memory / {program}'s", floor, aim,
                    ratio(trl and trl * 2**20, rss)))
    case = "grpo-4m-112px"
    out.append(("rollout of 32 sequences, 4M: hand-written torch's CPU seconds / Vireo's", 0.8, 2.0,
                ratio(cpu(run, case, "hand-written torch", "rollout"), cpu(run, case, "Vireo, fp32", "rollout"))))
    out.append(("SFT step, 4M, batch 32: hand-written torch's CPU seconds / Vireo's", 0.4, 1.0,
                ratio(cpu(run, "sft-4m-112px", "hand-written torch"), cpu(run, "sft-4m-112px", "Vireo, fp32"))))
    for name, floor, aim in (("f32", 0.17, 0.3), ("bf16", 0.25, 0.4)):
        for m in (512, 2048):
            for kind in ("nt", "nn", "tn"):
                shape = "512^3" if m == 512 else "2048x768x768"
                out.append((f"product {kind.upper()} {shape}, {name}, one thread: fraction of torch's fp32", floor, aim,
                            ratio(gemm_best(run, "Vireo, " + name, m, kind), gemm_best(run, "torch", m, kind))))
    return out


def most_figures(run):
    """Rows whose value must not be above the floor."""
    steps = [run.least(f"grpo-4m-336px, G = {g}", "Vireo, fp32", "seconds_min", "step") for g in (16, 2)]
    return [("336 px: floating-point work counted / necessary", 1.15, 1.05,
             run.least("grpo-4m-336px", "Vireo, fp32", "flops", "ratio")),
            ("336 px: step time at G = 16 / G = 2", 4.8, 3.5, ratio(*steps)),
            ("336 px: share of a step in which the device is idle", 0.10, 0.03,
             run.median("grpo-4m-336px", "Vireo, fp32", "idle_share")),
            ("112 px: share of a step in which the device is idle", 0.10, 0.03,
             run.median("grpo-4m-112px", "Vireo, fp32", "idle_share"))]


def number(x):
    return "" if x is None else f"{x:.2f}"


def tables(run):
    lines = ["| figure | floor | aim | measured |", "|---|---|---|---|"]
    for name, floor, aim, value in figures(run):
        if value is not None:
            lines.append(f"| {name} | {floor:g} | {aim:g} | {number(value)}{'' if value >= floor else ' (below)'} |")
    for name, floor, aim, value in most_figures(run):
        if value is not None:
            lines.append(f"| {name} | at most {floor:g} | {aim:g} | {number(value)}{'' if value <= floor else ' (above)'} |")
    lines += ["", "| case | program | step, wall s: least, median | CPU s: least | rollout, reference, update: CPU s | peak MiB |",
              "|---|---|---|---|---|---|"]
    for (case, program), seen in run.lines.items():
        if case == "gemm":
            continue
        phases = [cpu(run, case, program, p) for p in ("rollout", "reference", "update")]
        if phases[2] is None:
            parts = [cpu(run, case, program, p) for p in ("policy_forward", "backward")]
            phases[2] = sum(parts) if None not in parts else None
        rss = run.least(case, program, "peak_bytes", "rss")
        peak = rss / 2**20 if rss else run.least(case, program, "peak_rss_mib")
        lines.append(f"| {case} | {program} | {number(run.least(case, program, 'seconds_min', 'step'))}, "
                     f"{number(run.median(case, program, 'seconds_median', 'step'))} | {number(cpu(run, case, program))} | "
                     f"{', '.join(number(p) or '-' for p in phases)} | {peak:.0f} |")
    return "\n".join(lines)


def main():
    o = options()
    names = o.only.split(",")
    unknown = [n for n in names if n not in SECTIONS]
    if unknown:
        sys.exit(f"compare.py: unknown section {unknown[0]} (known: {', '.join(SECTIONS)})")
    run = Run(o)
    for name in names:
        # The large configuration takes minutes a step: one round shows it.
        for round_ in range(1 if name == "large" else o.rounds):
            print(f"{name}, round {round_ + 1}", file=sys.stderr, flush=True)
            SECTIONS[name](run)
    table = tables(run)
    print(table)
    if o.write:
        device = next((line["device"] for lines in run.lines.values() for line in lines if "device" in line), "")
        with open(o.write) as f:
            text = f.read()
        head, rest = text.split(BEGIN)
        stamp = (f"{datetime.date.today()}, {os.cpu_count()} cores, {device}; torch on two threads. By `tools/bench-peers`: "
                 f"{o.rounds} rounds of {o.runs} steps, interleaved; CPU seconds of all threads, least of all steps.")
        with open(o.write, "w") as f:
            f.write(head + BEGIN + "\n" + stamp + "\n\n" + table + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
