"""A vireo server in a temporary folder, and a small client, for tests that speak HTTP. Standard library only."""
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Server:
    def __init__(self, program, folder=None, arguments=(), environment=None):
        self.program, self.own_folder = program, folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="vireo-test-")
        self.arguments, self.environment = list(arguments), environment or {}
        self.process = None

    def command(self, *arguments, check=True):
        result = subprocess.run([self.program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "VIREO_URL": self.url if self.process else ""})
        if check and result.returncode:
            raise AssertionError(f"vireo {' '.join(arguments)}: status {result.returncode}: {result.stderr}")
        return result.stdout.strip()

    def start(self, environment=None):
        self.log = open(os.path.join(self.folder, "server.log"), "a")
        self.process = subprocess.Popen(
            [self.program, "serve", "--data", os.path.join(self.folder, "data"), "--listen", "127.0.0.1:0", *self.arguments],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, **self.environment, **(environment or {})})
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise AssertionError(f"the server said '{line}': " + open(self.log.name).read()[-2000:])
        self.url = line.split()[-1]
        self.host = urllib.parse.urlparse(self.url).netloc
        return self

    def request(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def get(self, path):
        answer = self.request("GET", path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:500]}"
        return answer.json()

    def post(self, path, body=None, status=200):
        answer = self.request("POST", path, body)
        assert answer.status == status, f"POST {path}: {answer.status} (wanted {status}) {answer.body[:500]}"
        return answer.json()

    def stream(self, method, path, body=None, headers=None, until=None):
        """Events as (name, id, data); `until(name, data)` ends the reading by going away."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection.request(method, path, json.dumps(body).encode() if body else None,
                           {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        assert response.status == 200, response.read()[:500]
        name, ident, events = "", None, []
        for raw in response:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("id: "):
                ident = line[4:]
            elif line.startswith("data: "):
                events.append((name, ident, line[6:]))
                if until and until(name, line[6:]):
                    break
            elif not line:
                name = ""
        connection.close()
        return events

    def wait_job(self, job_id, statuses=("succeeded", "failed", "cancelled"), seconds=300):
        end = time.time() + seconds
        while time.time() < end:
            job = self.get(f"/v1/fine_tuning/jobs/{job_id}")
            if job["status"] in statuses:
                return job
            time.sleep(0.1)
        raise AssertionError(f"job {job_id} is still {job['status']} after {seconds} s")

    def wait_step(self, job_id, step, seconds=300):
        end = time.time() + seconds
        while time.time() < end:
            job = self.get(f"/v1/fine_tuning/jobs/{job_id}")
            if job["vireo"]["step"] >= step or job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            time.sleep(0.02)
        raise AssertionError(f"job {job_id} did not reach step {step}")

    def stop(self, seconds=90):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self.process = None
        return status

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def finish(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


GRADER = {"type": "multi", "name": "rec", "calculate_output": "format + iou", "graders": {
    "format": {"type": "rule", "name": "format", "rule": "format"},
    "iou": {"type": "rule", "name": "iou", "rule": "iou", "reference": "{{ item.solution }}",
            "params": {"coords": "absolute"}}}}


def prepare(server, sft_rows=64, rft_rows=32):
    """A tiny model and two small datasets, uploaded; names of files by kind."""
    files = {}
    for kind, rows in (("sft", sft_rows), ("rft", rft_rows)):
        folder = os.path.join(server.folder, kind)
        server.command("datasets", "generate", "shapes", "--out", folder, "--count", str(rows), "--kind", kind,
                       "--objects", "1", "--seed", "3")
        files[kind] = server.command("datasets", "upload", folder, "--name", kind).split()
    return {kind: {"dataset": ids[0], "file": ids[1]} for kind, ids in files.items()}


def sft_job(model, file, steps, **vireo):
    return {"model": model, "training_file": file, "seed": 7, "suffix": "sft", "method": {"type": "supervised", "supervised": {
        "hyperparameters": {"batch_size": 8}}}, "vireo": {"learning_rate": 3e-3, "max_steps": steps, "save_steps": 4,
                                                         "lr_scheduler_type": "constant", **vireo}}


def grpo_job(model, file, steps, **vireo):
    return {"model": model, "training_file": file, "seed": 7, "suffix": "rl", "method": {"type": "reinforcement",
            "reinforcement": {"grader": GRADER, "hyperparameters": {"batch_size": 4}}},
            "vireo": {"learning_rate": 3e-4, "max_steps": steps, "save_steps": 3, "group_size": 4,
                      "max_completion_length": 24, **vireo}}
