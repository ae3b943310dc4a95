"""The whole path over HTTP with quick jobs: models, datasets, SFT, GRPO, events, checkpoints, evaluation, chat, shutdown.

usage: end_to_end.py VIREO
"""
import base64
import glob
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vireo_server import GRADER, Server, grpo_job, prepare, sft_job

checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise AssertionError(what)


def error_of(answer, status, code, param=None):
    check(answer.status == status, f"{answer.status} instead of {status}: {answer.body[:300]}")
    error = answer.json()["error"]
    check(set(error) == {"message", "type", "param", "code"}, f"keys of the error: {sorted(error)}")
    check(error["code"] == code, f"code {error['code']} instead of {code}: {error['message']}")
    check(param is None or error["param"] == param, f"param {error['param']} instead of {param}")


def refused_jobs(s, files):
    base = sft_job("tiny", files["sft"]["file"], 4)
    rl = grpo_job("tiny", files["rft"]["file"], 4)

    def with_vireo(job, **more):
        return {**job, "vireo": {**job["vireo"], **more}}

    cases = [
        ({}, 400, "missing_required_parameter", "model"),
        ({**base, "model": "nobody"}, 404, "model_not_found", "model"),
        ({**base, "training_file": "file-nothing"}, 404, "file_not_found", "training_file"),
        ({**base, "method": {"type": "dpo", "dpo": {}}}, 400, "unsupported_value", "method.type"),
        (with_vireo(base, adapter="lora"), 400, "unsupported_value", "vireo.adapter"),
        (with_vireo(base, offload="disk"), 400, "invalid_value", "vireo.offload"),
        (with_vireo(base, beta=0.1), 400, "invalid_parameter_combination", "vireo.beta"),
        (with_vireo(rl, loss_type="gspo"), 400, "unsupported_value", "vireo.loss_type"),
        (with_vireo(rl, num_iterations=2), 400, "unsupported_value", "vireo.num_iterations"),
        (with_vireo(rl, num_generations=4), 400, "invalid_parameter_combination", "vireo.group_size"),
        (with_vireo(rl, temperature=0), 400, "invalid_value", "vireo.temperature"),
        (with_vireo(rl, nonsense=1), 400, "unknown_parameter", "vireo.nonsense"),
        ({**base, "integrations": [{"type": "wandb", "wandb": {}}]}, 400, "unsupported_value", "integrations[0].type"),
        ({**base, "suffix": "a/b"}, 400, "invalid_value", "suffix"),
        ({**base, "seed": "x"}, 400, "invalid_type", "seed"),
        ({**rl, "method": {"type": "reinforcement", "reinforcement": {}}}, 400, "missing_required_parameter",
         "method.reinforcement.grader"),
    ]
    for body, status, code, param in cases:
        error_of(s.request("POST", "/v1/fine_tuning/jobs", body), status, code, param)
    grader = {"type": "rule", "name": "r", "rule": "iou", "reference": "{{ item.nowhere }}"}
    job = s.post("/v1/fine_tuning/jobs", {**rl, "method": {"type": "reinforcement", "reinforcement": {"grader": grader}}})
    job = s.wait_job(job["id"])
    check(job["status"] == "failed" and "nowhere" in job["error"]["message"], f"unknown item key: {job['error']}")
    check(s.get("/v1/fine_tuning/jobs?limit=1")["data"][0]["id"] == job["id"], "the list is newest first")


def supervised(s, files):
    job = s.post("/v1/fine_tuning/jobs", sft_job("tiny", files["sft"]["dataset"], 6, eval_interval=3) |
                 {"validation_file": files["sft"]["file"], "metadata": {"team": "x"}})
    check(job["status"] in ("validating_files", "queued") and job["object"] == "fine_tuning.job", job)
    events = s.stream("GET", f"/v1/fine_tuning/jobs/{job['id']}/events/stream")
    job = s.wait_job(job["id"])
    check(job["status"] == "succeeded", job["error"])
    check(job["fine_tuned_model"].startswith("ft:tiny:vireo:sft:"), job["fine_tuned_model"])
    steps = [json.loads(d)["data"]["step"] for n, _, d in events if n == "metrics"]
    check(steps == [1, 2, 3, 4, 5, 6], f"steps of the stream: {steps}")
    check([n for n, _, _ in events][-1] == "status", "the stream ends with the terminal status")
    check(len({i for _, i, _ in events}) == len(events), "ids of the stream are unique")
    # A reader that lost its connection goes on behind its last event.
    rest = s.stream("GET", f"/v1/fine_tuning/jobs/{job['id']}/events/stream", headers={"Last-Event-ID": events[3][1]})
    check([i for _, i, _ in rest] == [i for _, i, _ in events[4:]], "Last-Event-ID resumes without gap or repeat")
    listed = s.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=1000")
    check([json.loads(d)["id"] for _, _, d in events] == [e["id"] for e in reversed(listed["data"])], "page and stream agree")
    metrics = s.get(f"/v1/vireo/jobs/{job['id']}/metrics")
    check(metrics["step"] == steps and metrics["loss"][5] < metrics["loss"][0], metrics["loss"])
    check(metrics["eval_loss"][2] is not None and metrics["eval_loss"][1] is None, "validation at steps 3 and 6")
    checkpoints = s.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")["data"]
    check([c["step_number"] for c in checkpoints] == [6, 4], checkpoints)
    names = [m["id"] for m in s.get("/v1/models")["data"]]
    check(job["fine_tuned_model"] in names and checkpoints[1]["fine_tuned_model_checkpoint"] in names, names)
    csv = s.request("GET", f"/v1/files/{job['result_files'][0]}/content").body.decode().splitlines()
    check(csv[0].startswith("step,train_loss,train_accuracy,valid_loss,") and len(csv) == 7, csv[0])
    csv = s.request("GET", f"/v1/vireo/jobs/{job['id']}/metrics.csv").body.decode().splitlines()
    check(len(csv) == 7, "one line a step and the header")
    error_of(s.request("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel"), 400, "invalid_state")
    return job["fine_tuned_model"]


def reinforcement(s, files, model):
    job = s.post("/v1/fine_tuning/jobs", grpo_job(model, files["rft"]["file"], 5, beta=0.04))
    job = s.wait_job(job["id"])
    check(job["status"] == "succeeded", job["error"])
    metrics = s.get(f"/v1/vireo/jobs/{job['id']}/metrics")
    check(metrics["step"] == [1, 2, 3, 4, 5], metrics["step"])
    check(set(metrics["sampling/sampling_logp_difference/max"]) == {0.0}, "rollouts are exact")
    check(all(k is not None for k in metrics["kl"]), "kl with beta > 0")
    groups = s.get(f"/v1/vireo/jobs/{job['id']}/groups?step=5")["data"]
    check(len(groups) == 4 and all(len(g["samples"]) == 4 for g in groups), "4 groups of 4")
    check(s.get(f"/v1/vireo/samples/{groups[0]['samples'][0]['id']}")["object"] == "vireo.sample", "one sample")
    one = s.get(f"/v1/vireo/jobs/{job['id']}/metrics?names=reward")
    check(set(one) == {"step", "reward"}, sorted(one))
    return job["fine_tuned_model"]


def stopping(s, files):
    job = s.post("/v1/fine_tuning/jobs", sft_job("tiny", files["sft"]["file"], 400))
    s.wait_step(job["id"], 3)
    job = s.post(f"/v1/fine_tuning/jobs/{job['id']}/pause")
    job = s.wait_job(job["id"], ("paused", "failed"))
    check(job["status"] == "paused", job)
    at = job["vireo"]["step"]
    check(s.post(f"/v1/fine_tuning/jobs/{job['id']}/resume")["status"] == "queued", "resume queues")
    job = s.wait_step(job["id"], at + 2)
    check(job["vireo"]["resumed"] == 1, job["vireo"])
    job = s.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    check(job["status"] == "cancelled", job["status"])
    check(s.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")["status"] == "cancelled", "cancel twice is fine")
    steps = s.get(f"/v1/vireo/jobs/{job['id']}/metrics")["step"]
    check(steps == list(range(1, len(steps) + 1)), f"no step twice, none missing: {steps}")
    error_of(s.request("POST", f"/v1/fine_tuning/jobs/{job['id']}/resume"), 400, "invalid_state")


def evaluation(s, files, model):
    e = s.post("/v1/vireo/evaluations", {"model": model, "file": files["rft"]["dataset"], "grader": GRADER, "n": 2,
                                         "temperature": 1, "max_completion_tokens": 24, "limit": 10})
    end = time.time() + 120
    while e["status"] in ("queued", "running") and time.time() < end:
        time.sleep(0.1)
        e = s.get(f"/v1/vireo/evaluations/{e['id']}")
    check(e["status"] == "succeeded", e)
    check(e["result"]["n"] == 10 and set(e["result"]["rewards"]) == {"format", "iou"}, e["result"])
    page = s.get(f"/v1/vireo/evaluations/{e['id']}/rows?limit=4")
    check(len(page["data"]) == 4 and page["has_more"] and len(page["data"][0]["samples"]) == 2, "rows in pages")
    rest = s.get(f"/v1/vireo/evaluations/{e['id']}/rows?limit=100&after={page['data'][-1]['id']}")
    check(len(rest["data"]) == 6 and not rest["has_more"], "the rest of the rows")
    error_of(s.request("POST", "/v1/vireo/evaluations", {"model": model, "file": files["rft"]["file"]}), 400,
             "missing_required_parameter", "grader")


def chat(s, files, model):
    path = sorted(glob.glob(os.path.join(s.folder, "rft", "*.png")))[0]
    uri = "data:image/png;base64," + base64.b64encode(open(path, "rb").read()).decode()
    image = s.post("/v1/vireo/images", {"image": uri})["data"][0]["id"]

    small = s.request("GET", f"/v1/vireo/images/{image}/thumbnail?w=42")
    check(small.status == 200 and small.body[:8] == b"\x89PNG\r\n\x1a\n", small.body[:200])
    check(int.from_bytes(small.body[16:20], "big") == 42, "the thumbnail is 42 pixels wide")
    same = s.request("GET", f"/v1/vireo/images/{image}/thumbnail?w=42", headers={"If-None-Match": small.headers["ETag"]})
    check(same.status == 304 and not same.body, same.status)

    def body(url=uri, **more):
        return {"model": model, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "the red circle"}, {"type": "image_url", "image_url": {"url": url}}]}],
            "max_completion_tokens": 24, "seed": 5, "temperature": 1, **more}

    one = s.post("/v1/chat/completions", body(n=3, logprobs=True, top_logprobs=2))
    check(len(one["choices"]) == 3 and one["object"] == "chat.completion", one)
    check(one["usage"]["prompt_tokens_details"]["image_tokens"] == 9, one["usage"])
    content = one["choices"][0]["logprobs"]["content"]
    check(all(len(t["top_logprobs"]) == 2 and t["logprob"] <= 0 for t in content), "top log-probs of every token")
    check(bytes(sum((t["bytes"] for t in content), [])).decode(errors="replace") is not None, "bytes of tokens")
    again = s.post("/v1/chat/completions", body(image, n=3, logprobs=True, top_logprobs=2))
    check([c["message"] for c in one["choices"]] == [c["message"] for c in again["choices"]], "same seed, same answer")
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in (one, again)]
    check(cached[0] == 0 and cached[1] > 0, f"the second answer starts behind the known prompt: {cached}")
    chunks = s.stream("POST", "/v1/chat/completions", body(n=3, stream=True, stream_options={"include_usage": True}))
    check(chunks[-1][2] == "[DONE]", chunks[-1])
    parsed = [json.loads(c[2]) for c in chunks[:-1]]
    check(len({c["id"] for c in parsed}) == 1 and parsed[-1]["choices"] == [], "usage comes last")
    check(parsed[-1]["usage"] == again["usage"], (parsed[-1]["usage"], again["usage"]))
    for i in range(3):
        mine = [c["choices"][0] for c in parsed if c["choices"] and c["choices"][0]["index"] == i]
        text = "".join(c["delta"].get("content", "") for c in mine)
        check(text == one["choices"][i]["message"]["content"], f"choice {i}: streamed text differs")
        check(mine[0]["delta"]["role"] == "assistant" and mine[-1]["finish_reason"] == one["choices"][i]["finish_reason"], mine)
    text = one["choices"][0]["message"]["content"]
    if len(text) > 6:
        stop = text[3:6]
        short = s.post("/v1/chat/completions", body(n=1, stop=stop))["choices"][0]
        check(short["message"]["content"] == text[:text.index(stop)] and short["finish_reason"] == "stop", (text, short))
    greedy = [s.post("/v1/chat/completions", body(temperature=0, seed=k))["choices"][0]["message"]["content"] for k in (1, 2)]
    check(greedy[0] == greedy[1], "greedy answers do not depend on the seed")
    cases = [
        ({**body(), "model": "nobody"}, 404, "model_not_found", "model"),
        ({**body(), "messages": []}, 400, "invalid_value", "messages"),
        (body(temperature=3), 400, "invalid_value", "temperature"),
        (body(tools=[{"type": "function"}]), 400, "unsupported_parameter", "tools"),
        (body(response_format={"type": "json_object"}), 400, "unsupported_value", "response_format.type"),
        (body(top_logprobs=2), 400, "invalid_parameter_combination", "top_logprobs"),
        (body(max_tokens=3), 400, "invalid_parameter_combination", "max_tokens"),
        (body(stop=["a"] * 5), 400, "invalid_value", "stop"),
        (body("img_nothing"), 404, "file_not_found", "messages[0].content[1].image_url.url"),
        (body("https://example.org/a.png"), 400, "unsupported_value", "messages[0].content[1].image_url.url"),
        (body("data:image/png;base64,AAAA"), 400, None, None),
        ({**body(), "messages": [{"role": "user", "content": "x " * 40000}]}, None, "context_length_exceeded", "messages"),
    ]
    for request, status, code, param in cases:
        answer = s.request("POST", "/v1/chat/completions", request)
        check(400 <= answer.status < 500, f"{answer.status}: {answer.body[:200]}")
        if status:
            check(answer.status == status, f"{answer.status} instead of {status}: {answer.body[:300]}")
        if code:
            check(answer.json()["error"]["code"] == code, answer.body[:300])
        if param:
            check(answer.json()["error"]["param"] == param, answer.body[:300])
    # A client that goes away in the middle leaves nothing running.
    s.stream("POST", "/v1/chat/completions", body(stream=True, ignore_eos=True, max_completion_tokens=900),
             until=lambda name, data: True)
    end = time.time() + 10
    while time.time() < end and any(m["open"] for m in s.get("/v1/vireo/system")["loaded_models"].values()):
        time.sleep(0.1)
    check(not any(m["open"] for m in s.get("/v1/vireo/system")["loaded_models"].values()), "the request was cancelled")
    # A worker that dies fails its requests, never the server.
    pid = next(m["pid"] for name, m in s.get("/v1/vireo/system")["loaded_models"].items() if name == model)
    os.kill(pid, 9)
    time.sleep(0.5)
    check(s.post("/v1/chat/completions", body())["choices"], "a new worker answers")
    metrics = s.request("GET", "/metrics").body.decode()
    check("vireo_generation_tokens_total" in metrics and "vireo_num_requests_running{" in metrics, metrics[:200])
    check("vireo_kv_pages{" in metrics and "vireo_prompt_tokens_cached_total{" in metrics, metrics[:2000])


def main():
    s = Server(sys.argv[1])
    try:
        data = os.path.join(s.folder, "data")
        s.command("models", "init", "--preset", "tiny", "--name", "tiny", "--data", data)
        s.start()
        s.command("models", "init", "--preset", "tiny", "--name", "second", "--seed", "2", "--data", data)
        check({m["id"] for m in s.get("/v1/models")["data"]} == {"tiny", "second"}, "both models")
        files = prepare(s)
        refused_jobs(s, files)
        model = supervised(s, files)
        model = reinforcement(s, files, model)
        stopping(s, files)
        evaluation(s, files, model)
        chat(s, files, model)
        key = s.command("keys", "create", "--data", data, "--name", "test", "--scopes", "all")
        check(s.request("GET", "/v1/models").status == 401, "once a key exists every request needs one")
        check(s.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}).status == 200, "the key works")
        # An orderly end while a job runs: it goes on where it was.
        auth = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        job = json.loads(s.request("POST", "/v1/fine_tuning/jobs",
                                   json.dumps(sft_job("tiny", files["sft"]["file"], 60)).encode(), auth).body)
        s.request, plain = (lambda m, p, b=None, h=None, timeout=120: plain(
            m, p, json.dumps(b).encode() if isinstance(b, dict) else b, {**auth, **(h or {})}, timeout)), s.request
        s.wait_step(job["id"], 5)
        check(s.stop() == 0, "SIGTERM ends with status 0")
        s.start()
        job = s.wait_job(job["id"])
        check(job["status"] == "succeeded" and job["vireo"]["resumed"] == 1, job["vireo"])
        steps = s.get(f"/v1/vireo/jobs/{job['id']}/metrics")["step"]
        check(steps == list(range(1, 61)), f"steps after the restart: {steps}")
        check(s.stop() == 0, "SIGTERM ends with status 0")
        print(f"{checks} checks passed")
    except BaseException:
        print(open(os.path.join(s.folder, "server.log")).read()[-3000:], file=sys.stderr)
        raise
    finally:
        s.finish()


main()
