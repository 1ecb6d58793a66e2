"""Starts the kernel of R, and publishes for it.

R has one thread, which runs the user's code. What that prints, and what programs that it starts print, goes to pipes
which this process reads, so that it is seen while R computes. Messages of the kernel come by a socket and are
published in their order with what was printed before; R waits until each is.
"""

import codecs
import ctypes
import fcntl
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import termios
import time
import uuid
from datetime import datetime, timezone

import zmq

R = ["/usr/bin/R", "--slave", "-f", os.path.join(os.path.dirname(os.path.abspath(__file__)), "start_r_kernel.R")]
DELIMITER = b"<IDS|MSG>"
PIECE_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024
# Pieces that ZeroMQ keeps for a slow reader before the sender waits.
WAITING_MESSAGES = 16
# What R prints comes in many small pieces: after the first one the rest of the line is waited for, and while more comes
# it is looked for so often.
GATHER_SECONDS = 0.001
REST_SECONDS = 0.01
LINGER_MS = 1000
F_SETPIPE_SZ = 1031
PR_SET_PDEATHSIG = 1


class Output:
    """One of R's standard streams: a pipe whose other end R and the programs that it starts write to."""

    def __init__(self, name):
        self.name = name
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        try:
            fcntl.fcntl(self.write_end, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # It only holds less.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def waiting_bytes(self):
        return int.from_bytes(fcntl.ioctl(self.read_end, termios.FIONREAD, bytes(4)), sys.byteorder)

    def read(self):
        """How many bytes there were, and the text in them."""
        try:
            piece = os.read(self.read_end, PIECE_BYTES)
        except BlockingIOError:
            return 0, ""
        return len(piece), self._decoder.decode(piece)


class Publisher:
    """The socket to which front ends listen. A full one makes the sender wait: nothing is dropped."""

    def __init__(self, context, connection):
        self._key = connection["key"].encode()
        self._session = uuid.uuid4().hex
        self._sent = 0
        # The header of the request whose code runs, or ran last: late output belongs to it.
        self._parent = b"{}"
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, WAITING_MESSAGES)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.bind(endpoint(connection, connection["iopub_port"]))

    def pass_on(self, parts):
        self._parent = parts[parts.index(DELIMITER) + 3]
        self._socket.send_multipart(parts)

    def print(self, name, text):
        if not text:
            return
        self._sent += 1
        header = {
            "msg_id": f"{self._session}_{self._sent}",
            "msg_type": "stream",
            "username": "kernel",
            "session": self._session,
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        content = {"name": name, "text": text}
        signed = [json.dumps(header).encode(), self._parent, b"{}", json.dumps(content).encode()]
        signature = b""
        if self._key:
            signature = hmac.new(self._key, b"".join(signed), hashlib.sha256).hexdigest().encode()
        self._socket.send_multipart([b"stream", DELIMITER, signature, *signed])


def endpoint(connection, port):
    separator = "-" if connection["transport"] == "ipc" else ":"
    return f"{connection['transport']}://{connection['ip']}{separator}{port}"


class Kernel:
    def __init__(self, connection_file):
        with open(connection_file, encoding="utf-8") as file:
            connection = json.load(file)
        context = zmq.Context()
        self._publisher = Publisher(context, connection)
        self._messages = context.socket(zmq.PAIR)
        # No file, so that nothing is left behind.
        self._endpoint = f"ipc://@{uuid.uuid4().hex}"
        self._messages.bind(self._endpoint)
        self._outputs = [Output("stdout"), Output("stderr")]
        self._wakeups = wake_on(signal.SIGCHLD, signal.SIGINT)
        self._r = self._start(connection_file)

    def _start(self, connection_file):
        libc, parent = ctypes.CDLL(None), os.getpid()

        def end_with_parent():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        stdout, stderr = (output.write_end for output in self._outputs)
        arguments = ["--args", connection_file, self._endpoint]
        process = subprocess.Popen(
            R + arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=end_with_parent
        )
        for descriptor in (stdout, stderr):
            os.close(descriptor)
        return process

    def serve(self):
        """Returns how R ended, with all that it has written published."""
        messages, everything = zmq.Poller(), zmq.Poller()
        for poller in (messages, everything):
            poller.register(self._messages, zmq.POLLIN)
            poller.register(self._wakeups, zmq.POLLIN)
        for output in self._outputs:
            everything.register(output.read_end, zmq.POLLIN)
        rests_until = 0.0
        while self._r.poll() is None:
            rest = rests_until - time.monotonic()
            ready = dict(messages.poll(rest * 1000) if rest > 0 else everything.poll())
            if self._wakeups in ready:
                os.read(self._wakeups, 1024)
            if self._messages in ready:
                self._publish_message()
            elif rest <= 0:
                time.sleep(GATHER_SECONDS)
                if not any([self._print(output) for output in self._outputs]):
                    rests_until = time.monotonic() + REST_SECONDS
        while self._messages.poll(0):
            self._publish_message()
        self._print_all()
        return self._r.returncode

    def _publish_message(self):
        parts = self._messages.recv_multipart()
        self._print_all()
        self._publisher.pass_on(parts)
        self._messages.send(b"")

    def _print_all(self):
        """What was written until now; no more, because a program may never stop writing."""
        for output in self._outputs:
            waiting = output.waiting_bytes()
            while waiting > 0:
                size, text = output.read()
                self._publisher.print(output.name, text)
                waiting = waiting - size if size else 0

    def _print(self, output):
        """True when more is to be expected at once."""
        size, text = output.read()
        self._publisher.print(output.name, text)
        return size == PIECE_BYTES


def wake_on(*signals):
    """A descriptor that becomes readable with each of them. Programs that are started get them as usual."""
    read_end, write_end = os.pipe()
    for descriptor in (read_end, write_end):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return read_end


if __name__ == "__main__":
    status = Kernel(sys.argv[1]).serve()
    # As a shell tells of a program that was ended by a signal.
    sys.exit(status if status >= 0 else 128 - status)
