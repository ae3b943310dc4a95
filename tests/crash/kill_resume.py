"""Quick jobs killed at random points and resumed give the same bits as jobs that were never interrupted.

usage: kill_resume.py VIREO [--rounds N] [--seed N] [--steps N]

First each job (SFT and GRPO) runs twice without interruption: identical metrics and weights. Then rounds of: SIGKILL of the
worker at a random moment, SIGKILL of the server at a random moment, a kill at a named fault point of worker or server
(checkpoint write, fsync, rename, commit; the commit of the database; between rows and acknowledgement ...). Compared are all
metrics but clock readings (as the JSON text of the numbers, 17 digits) and the digest of the saved model folder. No step may
appear twice or be missing, no temporary checkpoint may be left.
"""
import argparse
import glob
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
from vireo_server import Server, grpo_job, prepare, sft_job

POINTS = ["checkpoint.write", "checkpoint.fsync", "checkpoint.rename", "checkpoint.commit", "worker.metrics", "worker.step",
          "worker.checkpoint", "file.fsync", "file.rename", "file.write", "store.commit"]


def result(server, job_id, steps):
    job = server.wait_job(job_id)
    if job["status"] != "succeeded":
        raise AssertionError(f"job {job_id} is {job['status']}: {job['error']}")
    metrics = server.get(f"/v1/vireo/jobs/{job_id}/metrics")
    if metrics["step"] != list(range(1, steps + 1)):
        raise AssertionError(f"steps {metrics['step']}")
    events = server.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000")["data"]
    seen = [e["data"]["step"] for e in reversed(events) if e["type"] == "metrics"]
    if seen != metrics["step"]:
        raise AssertionError(f"steps of the events: {seen}")
    timeless = {k: v for k, v in metrics.items() if not k.startswith("timing/") and k not in ("step_time", "eta_seconds")}
    models = {m["id"]: m["vireo"]["sha256"] for m in server.get("/v1/models")["data"]}
    left = glob.glob(os.path.join(server.folder, "data", "jobs", job_id, "checkpoints", "*.tmp"))
    left += glob.glob(os.path.join(server.folder, "data", "models", "*.tmp"))
    if left:
        raise AssertionError(f"left behind: {left}")
    return timeless, models[job["fine_tuned_model"]], job["vireo"].get("resumed", 0)


def compare(name, want, got):
    if want[0] != got[0]:
        keys = [k for k in sorted(set(want[0]) | set(got[0])) if want[0].get(k) != got[0].get(k)]
        raise AssertionError(f"{name}: metrics differ: " + "; ".join(f"{k}: {want[0].get(k)} {got[0].get(k)}" for k in keys[:3]))
    if want[1] != got[1]:
        raise AssertionError(f"{name}: the weights differ: {want[1]} {got[1]}")


def worker_pid(server):
    workers = server.get("/v1/vireo/system")["workers"]
    return next((w["pid"] for w in workers if w["kind"] == "train"), 0)


def alive(server):
    return server.process.poll() is None


def wait_end_or_crash(server, job_id, seconds=240):
    end = time.time() + seconds
    while time.time() < end and alive(server):
        try:
            if server.get(f"/v1/fine_tuning/jobs/{job_id}")["status"] in ("succeeded", "failed"):
                return
        except (OSError, AssertionError):
            pass
        time.sleep(0.05)


def round_of(server, random_, make, longest):
    kind = random_.choice(["worker", "server", "fault", "fault"])
    what = kind
    if kind == "fault":
        point, passage = random_.choice(POINTS), random_.randint(1, 8)
        what = f"kill:{point}:{passage}"
        job = server.post("/v1/fine_tuning/jobs", make())
        # The fault strikes workers started from now on: the server that has it is started over the queued job.
        server.kill()
        try:
            server.start({"VIREO_FAULT": what})
            wait_end_or_crash(server, job["id"])
        except AssertionError:
            pass # it hit the server before it listened
        # A fault that struck a worker alone would strike this server later: from here on without it.
        server.kill()
    else:
        job = server.post("/v1/fine_tuning/jobs", make())
        time.sleep(random_.uniform(0.1, longest))
        what += f" after {time.time() - job['created_at']:.1f} s"
        pid = worker_pid(server)
        if kind == "worker":
            if pid:
                os.kill(pid, 9)
            return job["id"], what
        server.kill()
    server.start()
    return job["id"], what


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("vireo")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    o = parser.parse_args()
    random_ = random.Random(o.seed)
    server = Server(o.vireo)
    try:
        server.command("models", "init", "--preset", "tiny", "--name", "tiny", "--data", os.path.join(server.folder, "data"))
        server.start()
        files = prepare(server)
        warm = server.post("/v1/fine_tuning/jobs", sft_job("tiny", files["sft"]["file"], 40))
        base = server.wait_job(warm["id"])["fine_tuned_model"]
        jobs = {"sft": lambda: sft_job("tiny", files["sft"]["file"], o.steps, save_steps=3),
                "grpo": lambda: grpo_job(base, files["rft"]["file"], o.steps, save_steps=3, beta=0.04)}
        want, seconds = {}, {}
        for name, make in jobs.items():
            for turn in (1, 2):
                start = time.time()
                got = result(server, server.post("/v1/fine_tuning/jobs", make())["id"], o.steps)
                seconds[name] = time.time() - start
                if turn == 2:
                    compare(f"{name}, the second run", want[name], got)
                want[name] = got
        print(f"two runs each are identical ({', '.join(f'{n} {s:.1f} s' for n, s in seconds.items())})", flush=True)
        resumed = 0
        for i in range(o.rounds):
            name = random_.choice(list(jobs))
            job_id, what = round_of(server, random_, jobs[name], seconds[name])
            got = result(server, job_id, o.steps)
            compare(f"round {i + 1}, {name}, {what}", want[name], got)
            resumed += got[2]
            print(f"round {i + 1}: {name}, {what}: identical, resumed {got[2]} times", flush=True)
        server.stop()
        integrity = subprocess.run(["sqlite3", os.path.join(server.folder, "data", "vireo.db"), "pragma integrity_check"],
                                   stdout=subprocess.PIPE, text=True) if os.path.exists("/usr/bin/sqlite3") else None
        if integrity and integrity.stdout.strip() != "ok":
            raise AssertionError(f"database: {integrity.stdout}")
        print(f"{o.rounds} rounds passed, {resumed} resumes from checkpoints")
    except BaseException:
        print(open(os.path.join(server.folder, "server.log")).read()[-4000:], file=sys.stderr)
        raise
    finally:
        server.finish()


main()
