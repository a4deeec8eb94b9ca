"""Uses the page of `kapell serve` as a musician would, in a headless Chromium.

page.py CHROMIUM URL MELODY SCRATCH [--shots]: the DevTools protocol over a WebSocket, with Python's own library only.
Exit code 0 if all is as it should be. With --shots, pictures are left in SCRATCH.
"""

import base64
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
import urllib.request

PATIENCE_S = 60
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--remote-debugging-port=0", "--mute-audio",
    "--window-size=1100,1000", "about:blank",
]


class Tab:
    """A tab, by its DevTools WebSocket."""

    def __init__(self, url):
        host, _, path = url.removeprefix("ws://").partition("/")
        name, port = host.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=PATIENCE_S)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        assert b" 101 " in head, head
        self.number, self.events = 0, []

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the browser has gone"
            data += more
        return data

    def receive(self):
        text = b""
        while True:
            first, second = self.exactly(2)
            size = second & 127
            if size >= 126:
                size = int.from_bytes(self.exactly(2 if size == 126 else 8), "big")
            text += self.exactly(size)
            if first & 128:
                return json.loads(text)

    def send(self, method, **parameters):
        """Calls a method and gives its result; events on the way are kept."""
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        size = struct.pack("!BH", 254, len(data)) if len(data) < 65536 else struct.pack("!BQ", 255, len(data))
        if len(data) < 126:
            size = bytes([128 | len(data)])
        mask = os.urandom(4)
        self.socket.sendall(b"\x81" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        while True:
            message = self.receive()
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def value(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, expression):
        end = time.monotonic() + PATIENCE_S
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"waited {PATIENCE_S} s for {expression}: {self.value('document.body.innerText')}"
            time.sleep(0.03)
        return value

    def press(self, key, code, text=""):
        for kind in ["keyDown", "keyUp"]:
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode=code)

    def middle(self, selector):
        self.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
                         f"(document.querySelector('{selector}').getBoundingClientRect())")
        return {"x": box[0], "y": box[1]}

    def click(self, selector):
        for kind in ["mousePressed", "mouseReleased"]:
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **self.middle(selector))

    def drop(self, selector, path):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ["dragEnter", "dragOver", "drop"]:
            self.send("Input.dispatchDragEvent", type=kind, data=data, **self.middle(selector))

    def shot(self, path):
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))


def open_tab(profile):
    """The debugger's port is in a file of the profile."""
    end = time.monotonic() + PATIENCE_S
    file = profile / "DevToolsActivePort"
    while not (file.is_file() and file.read_text().count("\n")):
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    port = file.read_text().split("\n")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        pages = [target for target in json.load(answer) if target["type"] == "page"]
    return Tab(pages[0]["webSocketDebuggerUrl"])


RESULT = "!document.getElementById('result').hidden && document.querySelectorAll('#downloads a').length === 4"
MESSAGE = "document.getElementById('message').textContent"


def use(tab, url, melody, scratch, shots):
    def shot(name):
        if shots:
            tab.shot(scratch / f"{name}.png")

    for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
        tab.send(f"{domain}.enable")
    tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    tab.send("Page.navigate", url=url)
    tab.wait("document.querySelectorAll('[name=built_in]').length === 4 && document.getElementById('model').textContent")
    shot("1-start")

    # A dropped file is shown, harmonised by the keyboard, and kept.
    tab.drop("#drop", melody)
    tab.wait(f"document.getElementById('drop-title').textContent === '{melody.name}'")
    tab.value("document.getElementById('file').focus()")
    for _ in range(40):
        if tab.value("document.activeElement.id") == "harmonize":
            break
        tab.press("Tab", 9)
    assert tab.value("document.activeElement.id") == "harmonize", "the button cannot be reached by the keyboard"
    tab.press("Enter", 13, "\r")
    tab.wait(RESULT)
    assert tab.value("document.activeElement.id") == "result", "the result does not get the focus"
    title = tab.value("document.getElementById('result-title').textContent")
    assert "Hundredth" in title, title
    assert tab.value("document.querySelectorAll('#roll rect').length") > 100
    assert tab.value("document.querySelectorAll('#legend li').length") == 4
    assert "nats per token" in tab.value("document.getElementById('facts').textContent")
    shot("2-harmonised")

    # It sounds, and the line moves with it.
    tab.wait("document.getElementById('audio').duration > 10")
    tab.value("document.getElementById('audio').play()")
    tab.wait("document.getElementById('audio').currentTime > 0.2 && "
             "Number(document.querySelector('#roll .head').getAttribute('x1')) > 0")
    tab.value("document.getElementById('audio').pause()")

    # Everything can be taken away.
    downloads = scratch / "downloads"
    tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    starts = {".musicxml": b"<?xml", ".mid": b"MThd", ".wav": b"RIFF", ".svg": b"<"}
    for at in range(1, 5):
        tab.click(f"#downloads a:nth-child({at})")
    end = time.monotonic() + PATIENCE_S
    while True:
        files = {f.suffix: f for f in downloads.glob("*")} if downloads.is_dir() else {}
        if set(files) == set(starts) and all(f.stat().st_size for f in files.values()):
            break
        assert time.monotonic() < end, f"downloaded: {sorted(files)}"
        time.sleep(0.05)
    for suffix, start in starts.items():
        assert files[suffix].read_bytes().startswith(start), suffix
    # 16 bits: neither silence nor clipped.
    sound = files[".wav"].read_bytes()[44:]
    loudest = max(abs(int.from_bytes(sound[at:at + 2], "little", signed=True)) for at in range(0, len(sound) - 1, 202))
    assert 2000 < loudest < 32767, loudest

    # A built-in melody, by lot, in three variations.
    tab.click("#melodies label:nth-of-type(4)")
    assert "Drop a melody" in tab.value("document.getElementById('drop-title').textContent")
    tab.click("[value=sample]")
    assert tab.value("document.getElementById('beam_width').closest('p').hidden")
    tab.value("document.getElementById('variations').value = 3; document.getElementById('seed').value = 5")
    tab.value("document.getElementById('downloads').replaceChildren()")
    tab.click("#harmonize")
    tab.wait("document.querySelectorAll('#tabs input').length === 3 && " + RESULT)
    shot("3-variations")
    before = tab.value("document.getElementById('facts').textContent")
    tab.click("#tabs label:nth-child(2)")
    tab.click("#tabs label:nth-child(1)")
    tab.click("#tabs label:nth-child(3)")
    tab.wait("document.getElementById('facts').textContent.includes('seed 7')")
    assert before, before

    # An error is told in its place, and goes when the next try succeeds.
    tab.value("document.querySelector('details').open = true; document.getElementById('key').value = 'H'")
    tab.click("#harmonize")
    assert "key" in tab.wait(MESSAGE).lower()
    shot("4-error")
    tab.value("document.getElementById('key').value = ''; document.getElementById('variations').value = 1")
    bad = scratch / "bad.musicxml"
    bad.write_text("<score-partwise><part-list")
    node = tab.send("DOM.querySelector", nodeId=tab.send("DOM.getDocument")["root"]["nodeId"], selector="#file")
    tab.send("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(bad)])
    tab.click("#harmonize")
    tab.wait(f"{MESSAGE}.includes('bad.musicxml')")

    # Something new.
    tab.value("document.getElementById('downloads').replaceChildren()")
    tab.click("#compose")
    tab.wait("document.getElementById('result-title').textContent.startsWith('Composition') && " + RESULT)
    assert tab.value("document.getElementById('message').hidden")

    # It fits a phone, and the dark.
    tab.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.value("document.documentElement.scrollWidth <= 360"), "it is wider than a phone"
    shot("5-phone-dark")
    tab.send("Emulation.clearDeviceMetricsOverride")
    shot("6-dark")

    # Every field has a label; nobody else was asked, and nothing was complained about.
    unlabelled = tab.value("[...document.querySelectorAll('input, select')].filter(i => !i.labels.length).map(i => i.id)")
    assert not unlabelled, unlabelled
    for event in tab.events:
        if event["method"] == "Network.requestWillBeSent":
            asked = event["params"]["request"]["url"]
            assert asked.startswith((url, "blob:", "data:")), asked
        if event["method"] == "Runtime.exceptionThrown":
            raise AssertionError(event["params"])
        if event["method"] == "Log.entryAdded":
            entry = event["params"]["entry"]
            # A refused request is logged as such.
            expected = entry["source"] == "network" and any(code in entry["text"] for code in ["400", "422"])
            assert expected or entry["level"] not in ["error", "warning"], entry


def main():
    chromium, url, melody, scratch = sys.argv[1:5]
    melody, scratch = pathlib.Path(melody).resolve(), pathlib.Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    profile = scratch / "profile"
    with open(scratch / "chromium.log", "w") as log:
        browser = subprocess.Popen([chromium, f"--user-data-dir={profile}", *FLAGS], stdout=log, stderr=log)
    try:
        use(open_tab(profile), url, melody, scratch, "--shots" in sys.argv)
    finally:
        browser.kill()
        browser.wait()


if __name__ == "__main__":
    main()
