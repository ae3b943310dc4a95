#!/usr/bin/env python3
"""The page in a real browser: jobs, curves, completions, boxes to the pixel, nothing from elsewhere, no complaint.

First against tests/ui/mock.py, whose jobs are known to the last number; then, where VIREO names the binary, against the
real server. Screenshots go to SCRATCH (or a new folder, named at the end). The last line is "N passed, N failed".
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser
import mock

OUT = os.environ.get("SCRATCH") or tempfile.mkdtemp(prefix="vireo-ui-shots-")
passed = failed = 0


def check(name, good, seen=None):
    global passed, failed
    if good:
        passed += 1
        print(f"ok    {name}")
    else:
        failed += 1
        print(f"FAIL  {name}: {seen!r}")
    sys.stdout.flush()


def shot(browser, name, width, height, dark):
    browser.view(width, height, dark)
    browser.receive(0.4)
    browser.evaluate("new Promise((r) => setTimeout(r, 350))")
    browser.screenshot(os.path.join(OUT, f"{name}-{width}-{'dark' if dark else 'light'}.png"))


# Text of the page that sticks out to the right makes the whole page scroll sideways.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def quiet(browser, origin, name):
    complaints = browser.complaints()
    check(f"{name}: no console error, no policy violation", not complaints, complaints)
    away = [u for u in browser.requests() if not u.startswith((origin + "/", "data:", "blob:", "about:"))]
    check(f"{name}: no request leaves the origin", not away, away)
    check(f"{name}: requests were seen at all", len(browser.requests()) > 5)
    browser.events.clear()


def test_jobs(browser, server):
    browser.view(1280, 900)
    browser.open(server.url + "/")
    check("jobs are listed", browser.wait("document.querySelectorAll('tr[data-job]').length === 4"))
    text = browser.evaluate("document.querySelector('tr[data-job=ftjob-grpo]').innerText")
    parts = ("point at what I name", "GRPO", "running", "60 / 240")
    check("a row has name, method, status, step", all(t in text for t in parts), text)
    check("a row has a time left", " min " in text, text)
    check("rewards and losses are drawn small", browser.wait("document.querySelectorAll('.sparkline polyline').length === 3"))
    check("the failed job says so", "failed" in browser.evaluate("document.querySelector('tr[data-job=ftjob-bad]').innerText"))
    check("finished jobs cannot be cancelled", browser.evaluate("document.querySelectorAll('.actions button').length") == 2)
    for width in (1280, 320):
        for dark in (False, True):
            shot(browser, "jobs", width, 900, dark)
        check(f"jobs: nothing sticks out at {width} px", browser.evaluate(OVERFLOW) <= 0, browser.evaluate(OVERFLOW))
    quiet(browser, server.url, "jobs")


# Distance between where a line of a colour is on the canvas and where the box says it must be, on four edges.
EDGES = """((colour, box, side) => {
  const canvas = document.querySelector('canvas.boxes'), image = document.querySelector('.frame img');
  const a = canvas.getBoundingClientRect(), b = image.getBoundingClientRect();
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height);
  const ratio = canvas.width / a.width, scale = b.width / side, like = (x, y) => {
    const o = (Math.round(y) * canvas.width + Math.round(x)) * 4;
    return pixels.data[o + 3] > 200 && colour.every((c, i) => Math.abs(pixels.data[o + i] - c) < 40);
  };
  const run = (at, end) => { const hits = []; for (let i = 0; i < end; i++) if (at(i)) hits.push(i); return hits; };
  const x = (v) => (b.left - a.left + v * scale) * ratio, y = (v) => (b.top - a.top + v * scale) * ratio;
  const near = (hits, want) => { const close = hits.map((i) => i + 0.5).filter((i) => Math.abs(i - want) < 8);
    return close.length ? Math.abs(close.reduce((s, i) => s + i, 0) / close.length - want) : 99; };
  // Dashes have gaps and a label may touch an edge: of several lines across it the best one counts.
  const best = (f) => Math.min(...[0.31, 0.37, 0.43, 0.52, 0.58, 0.64, 0.87, 0.9, 0.93, 0.96].map(f));
  const mx = (t) => x(box[0] + (box[2] - box[0]) * t), my = (t) => y(box[1] + (box[3] - box[1]) * t);
  return [best((t) => near(run((i) => like(i, my(t)), canvas.width), x(box[0]))),
    best((t) => near(run((i) => like(i, my(t)), canvas.width), x(box[2]))),
    best((t) => near(run((i) => like(mx(t), i), canvas.height), y(box[1]))),
    best((t) => near(run((i) => like(mx(t), i), canvas.height), y(box[3])))];
})(%s, %s, 84)"""
GREEN, ORANGE = "[21, 128, 61]", "[194, 65, 12]"


def test_job(browser, server):
    browser.view(1280, 1000)
    browser.open(server.url + "/#/jobs/ftjob-grpo")
    charts = browser.wait("document.querySelectorAll('.chart canvas').length >= 12 && "
                          "document.querySelectorAll('.chart').length")
    titles = browser.evaluate("[...document.querySelectorAll('.chart-title')].map((t) => t.textContent)")
    check("curves: reward, graders, loss, KL, entropy, length and more", charts and "KL to the reference" in titles, titles)
    check("no curve of what the job does not have", "Token accuracy" not in titles, titles)
    empty = browser.evaluate("""[...document.querySelectorAll('.chart')].filter((c) => { const k = c.querySelector('canvas');
      const o = new OffscreenCanvas(k.width, k.height).getContext('2d'); o.drawImage(k, 0, 0);
      const d = o.getImageData(0, 0, k.width, k.height).data; const seen = new Set();
      for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 128) seen.add(d[i] >> 5 << 6 | d[i + 1] >> 5 << 3 | d[i + 2] >> 5);
      return seen.size < 3; }).map((c) => c.querySelector('.chart-title').textContent)""")
    check("every curve is drawn", not empty, empty)
    check("a curve is described in words", "Reward, steps 1 to" in browser.evaluate(
        "document.querySelector('.plot').getAttribute('aria-label')"))
    check("a group of 8 completions is shown", browser.wait("document.querySelectorAll('.completion').length === 8"))
    check("scripts in a completion stay text", browser.evaluate("document.querySelectorAll('.completions script').length") == 0)
    check("reasoning is folded", browser.evaluate("document.querySelectorAll('.think').length") == 8 and
          browser.evaluate("document.querySelectorAll('.think[open]').length") == 0)
    advantages = browser.evaluate("[...document.querySelectorAll('.advantage .number')].map((n) => n.textContent)")
    check("advantages have a sign", all(re.match("[+\u2212]", a) for a in advantages), advantages)
    # The stream brings steps, is cut once, and goes on without a gap.
    live = browser.wait("[...document.querySelectorAll('.plot')].some((p) => p.ariaLabel.includes('steps 1 to 90'))", 30)
    check("steps arrive live, through a cut stream", live and server.cuts == 1, server.cuts)
    check("the stream was resumed where it ended", len(server.streams) >= 2 and server.streams[-1] > 60, server.streams)
    check("progress moves", browser.wait("document.querySelector('.progress-text').textContent === '90 / 240'"))
    browser.evaluate("document.querySelector('.chart details').open = true")
    steps = browser.wait("document.querySelectorAll('.chart tbody tr').length")
    check("each step once in the table", steps == 90, steps)
    browser.evaluate("document.querySelector('.chart details').open = false")
    check("the newest group is followed", browser.wait(
        "document.querySelector('.controls output').textContent === '90 of 90'", 10),
          browser.evaluate("document.querySelector('.controls output').textContent"))
    check("events are listed without the steps", "Checkpoint created at step 50." in browser.evaluate(
        "document.querySelector('.events').innerText") and "Step 3" not in browser.evaluate(
        "document.querySelector('.events').innerText"))
    check("settings are shown", "max_completion_length" in browser.evaluate("document.querySelector('.pairs').innerText"))
    browser.wait("document.querySelector('.frame img').complete && document.querySelector('.frame img').naturalWidth")
    for k in (0, 1, 2):
        browser.evaluate(f"document.querySelectorAll('.pick')[{k}].click()")
        text = browser.evaluate(f"document.querySelectorAll('.completion')[{k}].querySelector(':scope > pre').textContent")
        box = str([int(n) // 2 for n in re.search(r"\[([\d, ]+)\]", text)[1].split(",")])
        seen = browser.evaluate(EDGES % (ORANGE, box))
        check(f"the predicted box {box} is where it says", max(seen) <= 1, seen)
        if box == "[56, 56, 70, 70]":  # apart from it, so that nothing covers the truth
            seen = browser.evaluate(EDGES % (GREEN, str(mock.TRUTH)))
            check("the true box is where it says", max(seen) <= 1, seen)
    browser.evaluate("document.querySelectorAll('.pick')[1].click()")
    for width in (1280, 320):
        for dark in (False, True):
            shot(browser, "job", width, 1000, dark)
        check(f"job: nothing sticks out at {width} px", browser.evaluate(OVERFLOW) <= 0, browser.evaluate(OVERFLOW))
    browser.view(1280, 1000)
    browser.evaluate("""(() => { const s = document.getElementById('step'); s.value = 41;
      s.dispatchEvent(new Event('input')); })()""")
    check("the slider goes to a step", browser.wait(
        "document.querySelector('.rollout-left > .quiet').textContent.includes('scene-164')"))
    check("and following ends", browser.evaluate("document.getElementById('follow').checked") is False)
    browser.evaluate("[...document.querySelectorAll('.job-head button')].find((b) => b.textContent === 'Cancel').click()")
    check("cancel asks first", browser.wait("document.querySelector('dialog[open]') !== null") and not server.cancelled)
    browser.evaluate("document.querySelector('dialog .danger').click()")
    check("cancel cancels", browser.wait("document.querySelector('.job-head .status').textContent === 'cancelled'"))
    browser.open(server.url + "/#/jobs/ftjob-bad")
    check("a failed job shows its cause", browser.wait("document.querySelector('.job-head .error')?.innerText.includes('lost')"))
    check("SFT has its own curves", browser.wait("document.querySelector('.curves')?.innerText.includes('Token accuracy')"))
    quiet(browser, server.url, "job")
    browser.open(server.url + "/#/jobs/ftjob-none")
    check("an unknown job is said to be so", browser.wait("document.querySelector('main').innerText.includes('Not found')"))
    browser.events.clear()


def test_key(browser):
    server = mock.Mock(jobs=False, key=True)
    browser.open(server.url + "/")
    check("a key is asked for", browser.wait("document.getElementById('key') !== null"))
    shot(browser, "key", 1280, 600, False)
    enter = "document.getElementById('key').value = '%s'; document.querySelector('form button').click()"
    browser.evaluate(enter % "sk-wrong")
    check("a wrong key is refused", browser.wait("document.querySelector('.notice') !== null"))
    browser.evaluate(enter % mock.KEY)
    check("a right key opens the page; no jobs: what to do next", browser.wait(
        "document.querySelector('.empty')?.innerText.includes('tools/demo')"))
    check("scripts cannot read it", browser.evaluate(
        "document.cookie + JSON.stringify({...sessionStorage, ...localStorage})") == "{}")
    shot(browser, "empty", 1280, 600, True)
    browser.events.clear()
    server.close()


def start(binary, data):
    """The server on a free port, and its address (None: it did not start)."""
    log = open(os.path.join(OUT, "server.log"), "wb")
    server = subprocess.Popen([binary, "serve", "--data", data, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=log)
    log.close()
    line = server.stdout.readline().decode()  # "listening on http://127.0.0.1:8000"; ends when the server does
    m = re.search(r"http://\S+", line)
    return server, m and m[0]


def train(binary, url, data):
    """A job of three steps on generated scenes; its id."""
    scenes, env = os.path.join(data, "scenes"), {**os.environ, "VIREO_URL": url}
    tell = {"capture_output": True, "text": True, "check": True, "timeout": 120}
    subprocess.run([binary, "datasets", "generate", "shapes", "--out", scenes, "--kind", "rft", "--count", "16"], **tell)
    said = subprocess.run([binary, "datasets", "upload", scenes, "--name", "scenes"], env=env, **tell).stdout
    iou = {"type": "rule", "name": "iou", "rule": "iou", "params": {"coords": "absolute"}}
    body = {"model": "tiny", "training_file": re.search(r"file-\w+", said)[0], "seed": 1, "metadata": {"name": "three steps"},
            "method": {"type": "reinforcement", "reinforcement": {"grader": iou, "hyperparameters": {"batch_size": 2}}},
            "vireo": {"group_size": 4, "max_steps": 3, "max_completion_length": 8, "learning_rate": 1e-4}}
    request = urllib.request.Request(url + "/v1/fine_tuning/jobs", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["id"]


def test_real(browser, binary):
    data = tempfile.mkdtemp(prefix="vireo-ui-data-")
    subprocess.run([binary, "models", "init", "--preset", "tiny", "--name", "tiny", "--data", data], check=True, timeout=120,
                   stdout=subprocess.DEVNULL)
    server, url = start(binary, data)
    try:
        check("vireo serves", url is not None)
        if not url:
            return
        with urllib.request.urlopen(url + "/", timeout=10) as page:
            check("the page is in the binary", b"/app.js" in page.read())
            check("with the content policy", "script-src 'self'" in page.headers.get("Content-Security-Policy", ""))
        browser.view(1280, 900)
        browser.open(url + "/")
        check("the real server's page shows that there are no jobs", browser.wait("document.querySelector('.empty') !== null"))
        job = train(binary, url, data)
        check("a job appears by itself", browser.wait(f"document.querySelector('tr[data-job={job}]') !== null", 30))
        browser.evaluate(f"location.hash = '#/jobs/{job}'")
        check("its reward is drawn to the last step", browser.wait(
            "[...document.querySelectorAll('.plot')].some((p) => /^Reward, steps 1 to 3:/.test(p.ariaLabel))", 120))
        check("its completions are shown", browser.wait("document.querySelectorAll('.completion').length === 4", 10))
        check("the image of the row is shown", browser.wait("document.querySelector('.frame img').naturalWidth === 84", 10))
        check("with its true box", browser.wait("document.querySelector('.frame img').alt.includes('1 true')", 5),
              browser.evaluate("document.querySelector('.frame img').alt"))
        check("the newest step's", browser.wait("document.querySelector('.controls output').textContent === '3 of 3'", 10))
        check("it ends well", browser.wait("document.querySelector('.job-head .status').textContent === 'succeeded'", 60),
              browser.evaluate("document.querySelector('.job-head').innerText"))
        shot(browser, "real", 1280, 900, False)
        quiet(browser, url, "real server")
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        shutil.rmtree(data, ignore_errors=True)


def main():
    browser, server = Browser(), mock.Mock()
    try:
        test_jobs(browser, server)
        test_job(browser, server)
        test_key(browser)
        if os.environ.get("VIREO"):
            test_real(browser, os.environ["VIREO"])
        else:
            print("      (VIREO names no binary: the real server was not tried)")
    finally:
        browser.close()
        server.close()
    print(f"screenshots: {OUT}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
