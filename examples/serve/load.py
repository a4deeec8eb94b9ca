"""How many settings a second `kapell serve` gives to 1, 4 and 16 clients at once, with batches and without.

load.py --model DIR [--kapell target/release/kapell] [--seconds 5]

Starts two servers one after the other: one that decodes up to 16 requests a core as one batch, and one with
--max-batch 1. Clients ask for a drawn setting of Old Hundredth again and again, each with a seed of its own. Answers are
compared: a seed gives the same bytes whatever is decoded beside it. The processor time that the server used is given,
too: it says what batches save even where other programs share the cores. Linux; Python's own library only.
"""

import argparse
import hashlib
import http.client
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time

CLIENTS = [1, 4, 16]
QUERIES = {
    "sample": "search=sample&seed={seed}",
    "beam 5": "search=beam",
}


def start(kapell, model, batch, log):
    arguments = [kapell, "serve", "--model", model, "--http", "127.0.0.1:0", "--max-batch", str(batch)]
    server = subprocess.Popen(arguments, stderr=log)
    for _ in range(200):
        time.sleep(0.05)
        found = re.search(r"http://([0-9.]+:[0-9]+)/", pathlib.Path(log.name).read_text())
        if found and "the model is loaded" in pathlib.Path(log.name).read_text():
            return server, found[1]
    raise SystemExit("the server did not start: " + pathlib.Path(log.name).read_text())


def used_s(server):
    """Seconds of processor time, of all threads."""
    fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(connection, query):
    connection.request("POST", "/v1/harmonize?melody=old_hundredth&" + query, headers={"Accept": "text/plain"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body.count(b"\n"), hashlib.sha256(body).hexdigest()


def measure(server, address, query, clients, seconds, seen):
    done, tokens, end = [0] * clients, [0] * clients, time.monotonic() + seconds

    def client(number):
        connection = http.client.HTTPConnection(address)
        seed = 0
        while time.monotonic() < end:
            key = query.format(seed=number * 8 + seed % 8)
            count, digest = ask(connection, key)
            assert seen.setdefault(key, digest) == digest, "other bytes for the same seed"
            done[number] += 1
            tokens[number] += count
            seed += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    begin, used = time.monotonic(), used_s(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    return sum(done) / took, 1000 * (used_s(server) - used) / sum(tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kapell", default="target/release/kapell")
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    rates, seen = {}, {}
    for batch in [16, 1]:
        with tempfile.NamedTemporaryFile("w") as log:
            server, address = start(args.kapell, args.model, batch, log)
            try:
                for search, query in QUERIES.items():
                    for clients in CLIENTS:
                        rates[batch, search, clients] = measure(server, address, query, clients, args.seconds, seen)
            finally:
                server.terminate()
                server.wait()
    print("| search | clients | requests/s | CPU ms a token | one by one: requests/s | CPU ms a token | CPU saved |")
    print("|---|---|---|---|---|---|---|")
    for search in QUERIES:
        for clients in CLIENTS:
            (a, ca), (b, cb) = rates[16, search, clients], rates[1, search, clients]
            print(f"| {search} | {clients} | {a:.1f} | {ca:.3f} | {b:.1f} | {cb:.3f} | {1 - ca / cb:.0%} |")


if __name__ == "__main__":
    main()
