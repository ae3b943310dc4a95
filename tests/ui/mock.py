"""A server of the API's shapes with made-up jobs, so that the page can be tested without training anything.

The running job does a step each PACE seconds from step FIRST to LAST; its event stream is cut once, without a word, so that
the page must come back for the rest. Run alone it serves on port 8790: python3 tests/ui/mock.py
"""
import http.server
import json
import math
import os
import re
import struct
import sys
import threading
import time
import zlib

WEB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "web")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
          "frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
         ".js": "text/javascript; charset=utf-8"}
BEGAN = int(time.time()) - 300
SIDE, TRUTH = 84, [14, 28, 42, 56]
KEY = "sk-vireo-test"


def wave(step, seed):
    return math.sin(step * 12.9898 + seed * 78.233) * 0.5


def picture():
    """The PNG of a scene: a red square where the truth is, a blue one elsewhere, on a lit ground."""
    rows = b""
    for y in range(SIDE):
        row = b"\0"
        for x in range(SIDE):
            pixel = (60 + x, 70 + y, 90)
            if TRUTH[0] <= x < TRUTH[2] and TRUTH[1] <= y < TRUTH[3]:
                pixel = (205, 50, 50)
            elif 56 <= x < 70 and 56 <= y < 70:
                pixel = (60, 80, 215)
            row += bytes(pixel)
        rows += row

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def grpo_metrics(step):
    rise = 1 - math.exp(-step / 60)
    iou = 0.25 + 0.45 * rise + 0.06 * wave(step, 1)
    form = min(1.0, 0.9 + 0.1 * rise + 0.02 * wave(step, 2))
    values = {"loss": 0.004 * wave(step, 3), "reward": iou + 0.5 * form, "reward_std": 0.3,
              "grad_norm": 0.8 + 0.3 * wave(step, 4),
              "learning_rate": 3e-4 * min(1, step / 10), "entropy": 0.9 - 0.4 * rise + 0.05 * wave(step, 5), "kl": 0.02 * rise,
              "frac_reward_zero_std": max(0.0, 0.1 + 0.15 * wave(step, 6)), "completions/mean_length": 23 + wave(step, 7),
              "completions/clipped_ratio": 0.0, "rewards/iou/mean": iou, "rewards/format/mean": form,
              "grader/sample_parse_error_mean": 0.02, "sampling/sampling_logp_difference/max": 0.0,
              "step_time": 0.8, "epoch": step / 100, "num_tokens": step * 9000, "total_steps": 240}
    if step % 10 == 0:
        values.update({"eval_reward": iou + 0.55, "eval_rewards/iou/mean": iou + 0.05, "eval_rewards/format/mean": 1.0,
                       "eval_completions/mean_length": 23.0, "eval_parse_error": 0.0})
    return values


def sft_metrics(step):
    loss = 2.4 * math.exp(-step / 25) + 0.2 + 0.05 * wave(step, 8)
    values = {"loss": loss, "mean_token_accuracy": 1 - loss / 3, "entropy": loss / 2, "grad_norm": 1.1, "learning_rate": 2e-3,
              "step_time": 0.2, "total_steps": 120, "num_tokens": step * 3000}
    if step % 20 == 0:
        values.update({"eval_loss": loss + 0.05, "eval_mean_token_accuracy": 0.9 - loss / 3})
    return values


def completion(index, step):
    boxes = [[14, 28, 42, 56], [14, 28, 42, 42], [28, 28, 56, 56], [56, 56, 70, 70]]
    box = boxes[(index + step) % 4]
    iou = [1.0, 0.5, 1 / 3, 0.0][(index + step) % 4]
    # The model sees the image at twice its size and answers in those pixels.
    text = f"<think>large red square</think><answer>{{\"bbox_2d\": {json.dumps([2 * v for v in box])}}}</answer>"
    if index == 6:
        text = "<think>large red\u00ad <script>alert(1)</script> square</think>the box"
    reward = iou + 0.5 if index != 6 else 0.0
    return {"id": f"smp_{step}_{index}", "completion": text, "token_count": 23 + index, "reward": reward,
            "sub_rewards": {"iou": iou if index != 6 else 0.0, "format": 1.0 if index != 6 else 0.0},
            "reasons": {"iou": f"IoU {iou:.4f} with [14, 28, 42, 56]", "format": ""}, "advantage": (reward - 0.85) / 0.4,
            "logprob_sum": -6.5, "ref_logprob_sum": -6.6, "kl": 0.002, "finish_reason": "length" if index == 6 else "stop",
            "clipped": index == 6, "parse_error": index == 6}


class Mock:
    def __init__(self, pace=0.12, first=60, last=90, jobs=True, key=False):
        self.pace, self.first, self.last, self.with_jobs, self.key = pace, first, last, jobs, key
        self.begun, self.cuts, self.cancelled, self.streams = None, 0, False, []
        mock = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def do_GET(self):
                try:
                    mock.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the page went elsewhere

            do_POST = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0 if __name__ != "__main__" else 8790), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def step(self):
        if self.begun is None:
            return self.first
        return min(self.last, self.first + int((time.monotonic() - self.begun) / self.pace))

    def status(self):
        return "cancelled" if self.cancelled else "running"

    def jobs(self):
        step = self.step()

        def job(ident, method, status, step, total, **more):
            own = {"step": step, "total_steps": total, "epoch": step / 100, "queue_position": None,
                   "device": "llvmpipe (LLVM 19)",
                   "eta_s": (total - step) * 0.8 if status == "running" else None, "started_at": BEGAN, "pausing": False,
                   "alerts": [], "group_size": 8, "plan": {"weights": 1337920, "total": 373387520},
                   "learning_rate": 3e-4, "loss_type": "dapo", "beta": 0.0, "epsilon": 0.2,
                   "max_completion_length": 30, "facts": {"rows": 6000, "parameters": 330000}, **more.pop("own", {})}
            hyper = {"n_epochs": 1, "batch_size": 16, "learning_rate_multiplier": 300.0}
            grader = {"type": "multi", "graders": {
                "iou": {"type": "rule", "name": "iou", "rule": "iou", "params": {"coords": "model_input"}},
                "format": {"type": "rule", "name": "format", "rule": "format"}}, "calculate_output": "iou + 0.5 * format"}
            how = {"type": method, method: {"hyperparameters": hyper}}
            if method == "reinforcement":
                how[method]["grader"] = grader
            return {"id": ident, "object": "fine_tuning.job", "created_at": BEGAN, "finished_at": None, "estimated_finish": None,
                    "model": "tiny", "fine_tuned_model": None, "status": status, "training_file": "file-abc123",
                    "validation_file": "file-def456", "result_files": [], "trained_tokens": step * 9000, "hyperparameters": hyper,
                    "method": how, "seed": 1, "metadata": {}, "error": None, "vireo": own, **more}

        return [job("ftjob-grpo", "reinforcement", self.status(), step, 240, metadata={"name": "point at what I name"}),
                job("ftjob-wait", "reinforcement", "queued", 0, None, own={"queue_position": 1}),
                job("ftjob-bad", "supervised", "failed", 17, 120, finished_at=BEGAN + 60, error={
                    "code": "device_lost", "message": "The device was lost at step 17.", "param": None}),
                job("ftjob-sft", "supervised", "succeeded", 120, 120, finished_at=BEGAN + 100,
                    fine_tuned_model="ft:tiny:vireo:warm:abcd1234")] if self.with_jobs else []

    def events(self, ident, step):
        """All events so far, oldest first: (sequence number, kind, object)."""
        found, metrics = [], grpo_metrics if ident == "ftjob-grpo" else sft_metrics

        def add(kind, message, data=None, level="info"):
            n = len(found) + 1
            found.append((n, kind, {"id": f"ftevent-{n}", "object": "fine_tuning.job.event", "created_at": BEGAN + n,
                                    "level": level, "type": "metrics" if kind == "metrics" else "message",
                                    "message": message, "data": data}))

        add("message", "Created fine-tuning job.")
        add("message", "Files validated, job queued.")
        add("message", "Fine-tuning job started: 240 steps on llvmpipe.")
        for i in range(1, step + 1):
            add("metrics", f"Step {i}/240", {"step": i, "total_steps": 240, "vireo": metrics(i)})
            if i == 65:  # as after a resume
                add("metrics", f"Step {i}/240", {"step": i, "total_steps": 240, "vireo": metrics(i)})
            if i % 50 == 0:
                add("message", f"Checkpoint created at step {i}.")
        if ident == "ftjob-bad":
            add("status", "The device was lost at step 17.", {"status": "failed"}, "error")
        return found

    def send(self, handler, status, kind, body):
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Content-Security-Policy", POLICY)
        handler.send_header("X-Content-Type-Options", "nosniff")
        handler.send_header("Cache-Control", "no-store")
        if status == 200 and handler.path == "/v1/vireo/session":
            handler.send_header("Set-Cookie", "vireo_session=abc; Path=/; HttpOnly; SameSite=Strict")
        handler.end_headers()
        handler.wfile.write(body)

    def json(self, handler, value, status=200):
        self.send(handler, status, "application/json", json.dumps(value).encode())

    def error(self, handler, status, message):
        self.json(handler, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)

    def stream(self, handler, ident, after):
        self.streams.append(after)
        if ident == "ftjob-grpo" and self.begun is None:
            self.begun = time.monotonic()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.end_headers()
        handler.wfile.write(b"retry: 3000\n\n")
        while True:
            final = ident != "ftjob-grpo" or self.cancelled
            step = {"ftjob-grpo": self.step(), "ftjob-bad": 17, "ftjob-sft": 120}.get(ident, 0)
            for n, kind, event in self.events(ident, step):
                if n > after:
                    handler.wfile.write(f"id: {n}\nevent: {kind}\ndata: {json.dumps(event)}\n\n".encode())
                    after = n
            handler.wfile.write(b":\n")
            handler.wfile.flush()
            if final and ident != "ftjob-wait":
                return
            if not self.cuts and step >= self.first + 8:
                self.cuts += 1
                return
            time.sleep(0.05)

    def answer(self, handler):
        path, _, query = handler.path.partition("?")
        size = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(size)
        if path == "/v1/vireo/session":
            if json.loads(body).get("key") == KEY:
                return self.json(handler, {"object": "vireo.session", "expires_in": 43200})
            return self.error(handler, 401, "The key is not known.")
        if path.startswith("/v1/") and self.key and "vireo_session=abc" not in (handler.headers.get("Cookie") or ""):
            return self.error(handler, 401, "A key is needed.")
        jobs = self.jobs()
        if path == "/v1/fine_tuning/jobs":
            return self.json(handler, {"object": "list", "data": jobs, "has_more": False})
        m = re.fullmatch(r"/v1/(?:fine_tuning|vireo)/jobs/([\w-]+)(?:/(.*))?", path)
        if m:
            job = next((j for j in jobs if j["id"] == m[1]), None)
            if not job:
                return self.error(handler, 404, f"There is no job '{m[1]}'.")
            return self.about(handler, job, m[2] or "", dict(p.split("=", 1) for p in query.split("&") if "=" in p))
        if re.fullmatch(r"/v1/vireo/images/img_\d+/content", path):
            return self.send(handler, 200, "image/png", picture())
        name = "index.html" if path == "/" else path.lstrip("/")
        full = os.path.normpath(os.path.join(WEB, name))
        if full.startswith(os.path.normpath(WEB)) and os.path.isfile(full):
            with open(full, "rb") as f:
                return self.send(handler, 200, TYPES.get(os.path.splitext(full)[1], "text/plain; charset=utf-8"), f.read())
        return self.error(handler, 404, "No such route.")

    def about(self, handler, job, what, query):
        step, metrics = job["vireo"]["step"], grpo_metrics if job["method"]["type"] == "reinforcement" else sft_metrics
        if what == "":
            return self.json(handler, job)
        if what == "cancel":
            self.cancelled = True
            return self.json(handler, {**job, "status": "cancelled"})
        if what == "events/stream":
            return self.stream(handler, job["id"], int(query.get("after", 0)))
        if what == "metrics":
            rows, names = [metrics(i) for i in range(1, step + 1)], query.get("names", "").split(",")
            columns = {"step": list(range(1, step + 1))}
            for name in sorted({n for r in rows for n in r if names == [""] or n in names}):
                columns[name] = [r.get(name) for r in rows]
            return self.json(handler, columns)
        if what == "groups":
            at = int(query["step"])
            groups = [{"id": f"grp_{at}_{k}", "object": "vireo.group", "job_id": job["id"], "step": at, "index": k,
                       "row_id": f"scene-{at * 4 + k}",
                       "prompt": "Find the large red square. First think, then answer with its box.",
                       "images": [{"image": f"img_{k}", "width": SIDE, "height": SIDE, "model_width": 2 * SIDE,
                                   "model_height": 2 * SIDE}],
                       "item": {"solution": TRUTH}, "reward_mean": 0.85, "reward_std": 0.4, "created_at": BEGAN + at,
                       "samples": [completion(i, at + k) for i in range(8)]} for k in range(4)]
            return self.json(handler, {"object": "list", "data": groups[::-1] if at <= step else [], "has_more": False})
        return self.error(handler, 404, "No such route.")


if __name__ == "__main__":
    print(f"serving {Mock(pace=1.0).url}", file=sys.stderr)
    while True:
        time.sleep(3600)
