"""A real headless Chromium, spoken to over its debugging pipe; nothing but the browser itself is needed."""

import fcntl
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)
DEADLINE_SECONDS = 30
# Where Chromium reads commands and writes answers.
ITS_INPUT, ITS_OUTPUT = 3, 4


def find_chromium():
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Hold one page; `requests` are the addresses of all that it asked for, `problems` what it complained of."""

    def __init__(self, profile):
        self.requests, self.problems, self._last_id, self._rest, self._session = [], [], 0, b"", None
        (commands, self._commands), (self._answers, answers) = os.pipe(), os.pipe()
        # Out of the way of the places that they are moved to.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]

        def move():
            os.dup2(ends[0], ITS_INPUT)
            os.dup2(ends[1], ITS_OUTPUT)

        self._process = subprocess.Popen(
            [find_chromium(), *OPTIONS, f"--user-data-dir={profile}"],
            preexec_fn=move,
            pass_fds=(ITS_INPUT, ITS_OUTPUT),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *ends):
            os.close(end)

    def __enter__(self):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(DEADLINE_SECONDS)
        os.close(self._commands)
        os.close(self._answers)

    def open(self, address, expected):
        self.ask("Page.navigate", url=address)
        self.wait_for(expected)

    def wait_for(self, expected):
        """Wait until the page shows a text."""
        end = time.monotonic() + DEADLINE_SECONDS
        while expected not in (text := self.run("document.body ? document.body.innerText : ''")):
            assert time.monotonic() < end, f"{expected!r} did not appear in {text!r}"
            time.sleep(0.05)

    def run(self, script):
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def ask(self, method, **parameters):
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            case "Log.entryAdded":
                self.problems.append(event["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(event["params"]))

    def _next(self):
        while b"\0" not in self._rest:
            chunk = os.read(self._answers, 65536)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
