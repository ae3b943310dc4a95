"""Debian's Chromium, driven over the DevTools protocol through a pair of pipes: the standard library is enough."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--remote-debugging-pipe"]


class Browser:
    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="vireo-ui-")
        to_child, self.write_end = os.pipe()
        self.read_end, from_child = os.pipe()

        def place():  # the protocol's pipes are descriptors 3 (commands) and 4 (answers)
            a, b = os.dup(to_child), os.dup(from_child)
            os.dup2(a, 3)
            os.dup2(b, 4)

        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if not program:
            raise RuntimeError("there is no chromium: tools/setup --tests installs it")
        self.process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={self.home}", "about:blank"], close_fds=False,
                                        preexec_fn=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(to_child)
        os.close(from_child)
        self.buffer, self.sent, self.answers, self.events = b"", 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        shutil.rmtree(self.home, ignore_errors=True)

    def receive(self, seconds):
        ready, _, _ = select.select([self.read_end], [], [], max(0, seconds))
        if not ready:
            return False
        got = os.read(self.read_end, 1 << 20)
        if not got:
            raise RuntimeError("chromium has ended")
        *whole, self.buffer = (self.buffer + got).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)
        return True

    def call(self, method, **params):
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while self.sent not in self.answers:
            if time.monotonic() > end:
                raise RuntimeError(f"chromium does not answer {method}")
            self.receive(1)
        answer = self.answers.pop(self.sent)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def evaluate(self, script):
        """The value of a JavaScript expression; promises are awaited."""
        got = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            detail = got["exceptionDetails"]
            raise RuntimeError(detail.get("exception", {}).get("description", detail["text"]))
        return got["result"].get("value")

    def wait(self, condition, seconds=20):
        """Until a JavaScript expression is true; its last value."""
        end = time.monotonic() + seconds
        while True:
            value = self.evaluate(condition)
            if value or time.monotonic() > end:
                return value
            self.receive(0.1)

    def open(self, url):
        self.call("Page.navigate", url=url)

    def view(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def screenshot(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as f:
            f.write(base64.b64decode(shot["data"]))

    def complaints(self):
        """Errors of the console, exceptions and violations of the content policy since the last call."""
        found = []
        for event in self.events:
            params = event["params"] if "params" in event else {}
            if event["method"] == "Runtime.exceptionThrown":
                detail = params["exceptionDetails"]
                found.append(detail.get("exception", {}).get("description", detail["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
