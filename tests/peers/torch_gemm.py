#!/usr/bin/env python3
"""Matrix products of torch on one thread: GFLOP per CPU second, best of several runs, as one JSON line."""
import json
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
import torch

torch.set_num_threads(1)
SHAPES = [(512, 512, 512), (2048, 768, 768)]
PRODUCTS = {"nt": lambda a, b: a @ b.T, "nn": lambda a, b: a @ b, "tn": lambda a, b: a.T @ b}


def operands(kind, m, n, k):
    return (torch.rand((k, m) if kind == "tn" else (m, k)) * 2 - 1, torch.rand((n, k) if kind == "nt" else (k, n)) * 2 - 1)


results = []
for m, n, k in SHAPES:
    for kind, product in PRODUCTS.items():
        a, b = operands(kind, m, n, k)
        product(a, b)
        took = []
        for _ in range(5):
            start, wall, repeats = time.process_time(), time.perf_counter(), 0
            while time.process_time() - start < 0.1:
                product(a, b)
                repeats += 1
            took.append(((time.process_time() - start) / repeats, (time.perf_counter() - wall) / repeats))
        cpu, real = zip(*took)
        results.append({"product": kind, "m": m, "n": n, "k": k, "gflops_per_cpu_second": 2e-9 * m * n * k / min(cpu),
                        "cpu_seconds_min": min(cpu), "cpu_seconds_median": statistics.median(cpu),
                        "seconds_min": min(real), "seconds_median": statistics.median(real)})
print(json.dumps({"torch": torch.__version__, "results": results}))
