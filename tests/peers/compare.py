#!/usr/bin/env python3
"""Times Vireo beside TRL's trainer and hand-written torch, interleaved in one run, and writes the tables.

usage: compare.py --vireo BINARY [--rounds N] [--runs N] [--minutes N] [--only SECTION,...] [--write FILE] [--results FILE]
Sections: grpo, large, sft, gemm, group. Called by tools/bench-peers, in the Python environment that it makes.

Each round runs every program once, so that whatever else the machine does falls on all of them; a program warms up by one
step and is timed over --runs. Least and median are taken over all rounds, of the CPU seconds of all threads and of wall
seconds. A round that would not end within --minutes, by the longest before it, is not begun: the table says how many runs
each row has. --write replaces the rows that were measured and keeps all others.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import table

HERE = os.path.dirname(os.path.abspath(__file__))


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vireo", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--runs", type=int, default=1)
    p.add_argument("--minutes", type=float, default=35)
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
        start = time.monotonic()
        print(f"  {case}: {program}", end="", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, **environment})
        print(f" {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
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
    run.vireo(case, "Vireo, fp32", "grpo", run.config(case))
    run.torch(case, "TRL", "trl_grpo_baseline.py", run.config(case), "--mode", "trl")
    run.vireo(case, "Vireo, bf16", "grpo", run.config(case, dtype="bf16"))
    run.vireo(case, "Vireo, bf16, offloaded", "grpo",
              run.config(case, dtype="bf16", offload="all", gradient_checkpointing=True))


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


# The four figures of a time: title, field, how lines are taken together.
TIMES = (("CPU least", "cpu_seconds_min", "least"), ("CPU median", "cpu_seconds_median", "median"),
         ("wall least", "seconds_min", "least"), ("wall median", "seconds_median", "median"))


def ratio(a, b):
    return a / b if a and b else None


def step_times(run, case, program, phase="step"):
    return [getattr(run, how)(case, program, field, phase) for _, field, how in TIMES]


def gemm_times(run, program, m, kind):
    out = []
    for _, field, how in TIMES:
        values = [r[field] for line in run.lines.get(("gemm", program), []) for r in line["results"]
                  if r["m"] == m and r["product"] == kind]
        out.append((min(values) if how == "least" else statistics.median(values)) if values else None)
    return out


def both(run, case, peer, program):
    """The runs that a ratio's two sides have at the least."""
    return min(len(run.lines.get((case, p), [])) for p in (peer, program)) * (1 if case == "gemm" else run.o.runs)


def figures(run):
    """Rows of the table: what, floor, aim, four ratios (CPU least, median, wall least, median), runs."""
    out = []

    def times(name, bounds, case, peer, program, phase="step"):
        pairs = zip(step_times(run, case, peer, phase), step_times(run, case, program, phase))
        out.append((name, *bounds, [ratio(a, b) for a, b in pairs], both(run, case, peer, program)))

    for case, bounds in (("grpo-4m-112px", ((1.0, 1.6), (1.4, 2.5), (0.5, 1.0))),
                         ("grpo-4m-336px", ((2.0, 3.5), (3.0, 6.0), (0.7, 1.5))),
                         ("grpo-100m-112px", ((0.6, 1.0), (0.9, 1.7)))):
        for program, bound in zip(("Vireo, fp32", "Vireo, bf16"), bounds):
            times(f"{case}: TRL's seconds / {program}'s", bound, case, "TRL", program)
        if len(bounds) > 2:
            times(f"{case}: hand-written torch's / Vireo's, fp32", bounds[2], case, "hand-written torch", "Vireo, fp32")
    case = "grpo-100m-112px"
    for program, floor, aim in (("Vireo, fp32", 1.4, 1.7), ("Vireo, bf16, offloaded", 2.0, 4.0)):
        trl = run.least(case, "TRL", "peak_rss_mib")
        memory = ratio(trl and trl * 2**20, run.least(case, program, "peak_bytes", "rss"))
        out.append((f"{case}: TRL's peak resident memory / {program}'s", floor, aim, [memory, None, None, None],
                    both(run, case, "TRL", program)))
    case = "grpo-4m-112px"
    times("rollout of 32 sequences, 4M: hand-written torch's seconds / Vireo's", (0.8, 2.0), case, "hand-written torch",
          "Vireo, fp32", "rollout")
    times("SFT step, 4M, batch 32: hand-written torch's seconds / Vireo's", (0.4, 1.0), "sft-4m-112px",
          "hand-written torch", "Vireo, fp32")
    for name, floor, aim in (("f32", 0.17, 0.3), ("bf16", 0.25, 0.4)):
        for m in (512, 2048):
            for kind in ("nt", "nn", "tn"):
                shape = "512^3" if m == 512 else "2048x768x768"
                pairs = zip(gemm_times(run, "torch", m, kind), gemm_times(run, "Vireo, " + name, m, kind))
                out.append((f"product {kind.upper()} {shape}, {name}, one thread: fraction of torch's fp32", floor, aim,
                            [ratio(a, b) for a, b in pairs], both(run, "gemm", "torch", "Vireo, " + name)))
    return out


def most_figures(run):
    """Rows whose value must not be above the floor."""
    short, long = (step_times(run, f"grpo-4m-336px, G = {g}", "Vireo, fp32") for g in (2, 16))
    runs = both(run, "grpo-4m-336px", "Vireo, fp32", "Vireo, fp32")
    out = [("336 px: floating-point work counted / necessary", 1.15, 1.05,
            [run.least("grpo-4m-336px", "Vireo, fp32", "flops", "ratio"), None, None, None], runs),
           ("336 px: step time at G = 16 / G = 2", 4.8, 3.5, [ratio(a, b) for a, b in zip(long, short)],
            len(run.lines.get(("grpo-4m-336px, G = 16", "Vireo, fp32"), [])) * run.o.runs)]
    for size in ("336", "112"):
        case = f"grpo-4m-{size}px"
        out.append((f"{size} px: share of a step in which the device is idle", 0.10, 0.03,
                    [None, None, run.least(case, "Vireo, fp32", "idle_share"), run.median(case, "Vireo, fp32", "idle_share")],
                    both(run, case, "Vireo, fp32", "Vireo, fp32")))
    return out


def number(x):
    return "" if x is None else f"{x:.2f}"


def figure_rows(run, today):
    rows = []
    for sign, found in ((1, figures(run)), (-1, most_figures(run))):
        for name, floor, aim, values, runs in found:
            # What is held to the floor: CPU seconds at the least, else the last figure there is (a median).
            held = values[0] if values[0] is not None else values[-1]
            if held is None:
                continue
            off = "" if sign * held >= sign * floor else " (below)" if sign > 0 else " (above)"
            shown = [number(v) for v in values]
            shown[0 if values[0] is not None else -1] += off
            rows.append({"figure": name, "floor": f"{'' if sign > 0 else 'at most '}{floor:g}", "aim": f"{aim:g}",
                         **dict(zip((t[0] for t in TIMES), shown)), "runs": str(runs), "date": today})
    return rows


def case_rows(run, today):
    rows = []
    for (case, program), seen in run.lines.items():
        if case == "gemm":
            continue
        phases = [run.least(case, program, "cpu_seconds_min", p) for p in ("rollout", "reference", "update")]
        if phases[2] is None:
            parts = [run.least(case, program, "cpu_seconds_min", p) for p in ("policy_forward", "backward")]
            phases[2] = sum(parts) if None not in parts else None
        rss = run.least(case, program, "peak_bytes", "rss")
        peak = rss / 2**20 if rss else run.least(case, program, "peak_rss_mib")
        rows.append({"case": case, "program": program,
                     **dict(zip((t[0] for t in TIMES), (number(t) for t in step_times(run, case, program)))),
                     "rollout, reference, update: CPU s": ", ".join(number(p) or "-" for p in phases),
                     "peak MiB": f"{peak:.0f}", "runs": str(len(seen) * run.o.runs), "date": today})
    return rows


def measure(run, names):
    """Rounds over all sections, until they are done or another would not end in time."""
    start, longest = time.monotonic(), 0
    for turn in range(run.o.rounds):
        began = time.monotonic()
        if turn and began - start + longest > 60 * run.o.minutes:
            print(f"no time for more than {turn} of {run.o.rounds} rounds", file=sys.stderr)
            return
        for name in names:
            print(f"round {turn + 1} of {run.o.rounds}, {name}; {(time.monotonic() - start) / 60:.1f} min", file=sys.stderr,
                  flush=True)
            SECTIONS[name](run)
        longest = max(longest, time.monotonic() - began)


def main():
    o = options()
    names = o.only.split(",")
    unknown = [n for n in names if n not in SECTIONS]
    if unknown:
        sys.exit(f"compare.py: unknown section {unknown[0]} (known: {', '.join(SECTIONS)})")
    run = Run(o)
    measure(run, names)
    today = str(datetime.date.today())
    tables = [figure_rows(run, today), case_rows(run, today)]
    print(table.text(tables))
    if o.write:
        device = next((line["device"] for lines in run.lines.values() for line in lines if "device" in line), "")
        stamp = (f"{os.cpu_count()} cores, {device}; torch on two threads. By `tools/bench-peers`: programs in turns, {o.runs} "
                 "timed steps after one to warm up; seconds of a step, CPU seconds of all threads; least and median of all "
                 "runs of a row.")
        table.write(o.write, stamp, tables)


if __name__ == "__main__":
    main()
