"""Runs inside a sandbox: kernels driven in three ways, in turn. Prints JSON: milliseconds by way and code.

Arguments: rounds of `1+1`, of prints, of all kernels at once; prints; access token; kernel ids (the first alone for all
but the last).
"""

import http.client
import json
import socket
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir
from tornado.ioloop import IOLoop
from tornado.netutil import Resolver
from tornado.websocket import websocket_connect

ROUNDS, PRINT_ROUNDS, PARALLEL_ROUNDS, PRINTS = map(int, sys.argv[1:5])
TOKEN, KERNELS = sys.argv[5], sys.argv[6:]
SOCKET = "/opt/e2b/run/jupyter.sock"
PRINT = f"for i in range({PRINTS}): print(i)"
PRINT_FLUSHED = f"for i in range({PRINTS}): print(i, flush=True)"


class Raw:
    """jupyter_client on the kernel's own sockets."""

    def __init__(self, kernel):
        self.client = BlockingKernelClient()
        self.client.load_connection_file(str(Path(jupyter_runtime_dir(), f"kernel-{kernel}.json")))
        self.client.start_channels(stdin=False, hb=False)
        self.client.wait_for_ready(timeout=10)

    def run(self, code):
        sent = self.client.execute(code)
        result_at = None
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "execute_result":
                result_at = time.perf_counter()
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while self.client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != sent:
            pass
        return result_at

    def close(self):
        self.client.stop_channels()


class Websocket:
    """Jupyter Server's own websocket, as its front ends use it."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.loop = IOLoop(make_current=False)
        self.session = uuid.uuid4().hex
        self.loop.run_sync(self.connect)

    async def connect(self):
        class UnixResolver(Resolver):
            async def resolve(self, *_arguments, **_named):
                return [(socket.AF_UNIX, SOCKET)]

        url = f"ws://localhost/api/kernels/{self.kernel}/channels?session_id={self.session}"
        self.connection = await websocket_connect(url, resolver=UnixResolver(), max_message_size=2**30)

    def run(self, code):
        return self.loop.run_sync(lambda: self.execute(code))

    async def execute(self, code):
        sent = uuid.uuid4().hex
        header = {"msg_id": sent, "session": self.session, "username": "", "msg_type": "execute_request", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self.connection.write_message(json.dumps(request))
        result_at, is_idle, is_answered = None, False, False
        while not (is_idle and is_answered):
            message = json.loads(await self.connection.read_message())
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind = message["header"]["msg_type"]
            if kind == "execute_result":
                result_at = time.perf_counter()
            is_answered |= kind == "execute_reply"
            is_idle |= kind == "status" and message["content"]["execution_state"] == "idle"
        return result_at

    def close(self):
        self.connection.close()
        self.loop.run_sync(self.connection.read_message)
        self.loop.close()


class Service:
    """Our service on port 49999, on a connection that is kept for as long as the service keeps it."""

    KEPT_FOR_S = 3

    def __init__(self, kernel):
        self.kernel = kernel
        self.connection = http.client.HTTPConnection("127.0.0.1", 49999)
        self.used_at = time.perf_counter()

    def run(self, code):
        if time.perf_counter() - self.used_at > self.KEPT_FOR_S:
            self.connection.close()
        headers = {"Content-Type": "application/json", "X-Access-Token": TOKEN}
        self.connection.request("POST", "/execute", json.dumps({"code": code, "context_id": self.kernel}), headers)
        response = self.connection.getresponse()
        result_at = None
        while line := response.readline():
            if result_at is None and b'"result"' in line:
                result_at = time.perf_counter()
            elif b'"error"' in line:
                raise RuntimeError(line.decode())
        self.used_at = time.perf_counter()
        return result_at

    def close(self):
        self.connection.close()


WAYS = {"raw": Raw, "websocket": Websocket, "service": Service}


def measure_sum(rounds, warm_ups=5):
    ways = {name: Way(KERNELS[0]) for name, Way in WAYS.items()}
    ends, results = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    for turn in range(-warm_ups, rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            result_at = way.run("1+1")
            ended = time.perf_counter()
            if turn >= 0:
                ends[name].append((ended - started) * 1000)
                results[name].append((result_at - started) * 1000)
    for way in ways.values():
        way.close()
    return {"end": ends, "result": results}


def measure_prints(code, rounds):
    """Each way is connected for its turn alone: output that another one does not read would make the kernel wait."""
    ends = {name: [] for name in WAYS}
    for turn in range(-1, rounds):
        for name, Way in WAYS.items():
            way = Way(KERNELS[0])
            way.run("1")
            started = time.perf_counter()
            way.run(code)
            if turn >= 0:
                ends[name].append((time.perf_counter() - started) * 1000)
            way.close()
    return ends


def measure_parallel(rounds):
    """`1+1` in all kernels at once, until the last has answered."""
    ends = {name: [] for name in WAYS}
    with ThreadPoolExecutor(len(KERNELS)) as threads:
        ways = {name: list(threads.map(Way, KERNELS)) for name, Way in WAYS.items()}
        for turn in range(-1, rounds):
            for name, all_kernels in ways.items():
                started = time.perf_counter()
                list(threads.map(lambda way: way.run("1+1"), all_kernels))
                if turn >= 0:
                    ends[name].append((time.perf_counter() - started) * 1000)
    return ends


print(
    json.dumps(
        {
            "sum": measure_sum(ROUNDS),
            "prints": measure_prints(PRINT, PRINT_ROUNDS),
            "flushed": measure_prints(PRINT_FLUSHED, PRINT_ROUNDS),
            "parallel": measure_parallel(PARALLEL_ROUNDS),
        }
    )
)
