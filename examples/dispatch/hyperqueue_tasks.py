"""Tasks through HyperQueue: each is `true`, a process; no result is recorded. Prints when they began and ended."""

import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

folder, tasks = sys.argv[1], int(sys.argv[2])

with LocalCluster(server_dir=folder) as cluster:
    for _ in range(2):
        cluster.start_worker(WorkerConfig(cores=8))
    client = cluster.client()
    job = Job(max_fails=None)
    for _ in range(tasks):
        job.program(["true"], stdout=None, stderr=None)
    begun = time.monotonic()
    client.wait_for_jobs([client.submit(job)])
    print("TIMES", begun, time.monotonic(), flush=True)
