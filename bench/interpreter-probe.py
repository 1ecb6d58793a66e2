"""Runs inside a sandbox: one kernel driven in three ways, in turn. Prints JSON: milliseconds by way and code.

Arguments: kernel id, rounds of `1+1`, of prints; prints; access token.
"""

import http.client
import json
import socket
import sys
import time
import uuid
from pathlib import Path

from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir
from tornado.ioloop import IOLoop
from tornado.netutil import Resolver
from tornado.websocket import websocket_connect

KERNEL, TOKEN = sys.argv[1], sys.argv[5]
ROUNDS, PRINT_ROUNDS, PRINTS = map(int, sys.argv[2:5])
SOCKET = "/opt/e2b/run/jupyter.sock"
PRINT = f"for i in range({PRINTS}): print(i)"


class Raw:
    """jupyter_client on the kernel's own sockets."""

    def __init__(self):
        self.client = BlockingKernelClient()
        self.client.load_connection_file(str(Path(jupyter_runtime_dir(), f"kernel-{KERNEL}.json")))
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


class Websocket:
    """Jupyter Server's own websocket, as its front ends use it."""

    def __init__(self):
        self.loop = IOLoop(make_current=False)
        self.session = uuid.uuid4().hex
        self.loop.run_sync(self.connect)

    async def connect(self):
        class UnixResolver(Resolver):
            async def resolve(self, *_arguments, **_named):
                return [(socket.AF_UNIX, SOCKET)]

        url = f"ws://localhost/api/kernels/{KERNEL}/channels?session_id={self.session}"
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


class Service:
    """Our service on port 49999, on a connection that is kept for as long as the service keeps it."""

    KEPT_FOR_S = 3

    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", 49999)
        self.used_at = time.perf_counter()

    def run(self, code):
        if time.perf_counter() - self.used_at > self.KEPT_FOR_S:
            self.connection.close()
        headers = {"Content-Type": "application/json", "X-Access-Token": TOKEN}
        self.connection.request("POST", "/execute", json.dumps({"code": code, "context_id": KERNEL}), headers)
        response = self.connection.getresponse()
        result_at = None
        while line := response.readline():
            if result_at is None and b'"result"' in line:
                result_at = time.perf_counter()
            elif b'"error"' in line:
                raise RuntimeError(line.decode())
        self.used_at = time.perf_counter()
        return result_at


WAYS = {"raw": Raw(), "websocket": Websocket(), "service": Service()}


def measure(code, rounds, warm_ups=1):
    ends, results = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    for turn in range(-warm_ups, rounds):
        for name, way in WAYS.items():
            started = time.perf_counter()
            result_at = way.run(code)
            ended = time.perf_counter()
            if turn < 0:
                continue
            ends[name].append((ended - started) * 1000)
            if result_at is not None:
                results[name].append((result_at - started) * 1000)
    return {"end": ends, "result": results}


sum_ = measure("1+1", ROUNDS, warm_ups=5)
prints = measure(PRINT, PRINT_ROUNDS)
print(json.dumps({"sum": sum_, "prints": prints["end"]}))
