"""Output that waits for its reader. ipykernel hands what the code prints and shows to a thread that sends it, without
bound, and ZeroMQ drops what a reader has not taken after 1,000 messages: here the code waits instead, so that
nothing is lost and no more than a few pieces are in memory, whatever is printed and however slow the reader is."""

from collections.abc import Iterator
from threading import Event, current_thread
from typing import Any

import zmq
from ipykernel import kernelapp
from ipykernel.iostream import IOPubThread, OutStream

# Text travels in pieces of so many characters.
PIECE_CHARS = 256 * 1024
# A thread that has handed over so many bytes waits until they are gone.
HANDED_OVER_BYTES = 64 * 1024
# A message of so many bytes is waited for alone; of smaller ones ZeroMQ holds 1,000.
LARGE_BYTES = 16 * 1024


class BoundedIOPubThread(IOPubThread):
    """Sends no faster than what it sends is read."""

    def __init__(self, socket: Any, pipe: bool = False) -> None:
        super().__init__(socket, pipe)
        # A full queue makes the sender wait.
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.copy_threshold = LARGE_BYTES
        self._handed_over = 0

    def send_multipart(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().send_multipart(msg, *args, **kwargs)
        self._handed_over += _size(msg)
        if self._handed_over < HANDED_OVER_BYTES:
            return
        if current_thread() is self.thread or not self.thread.is_alive():
            return
        self._handed_over = 0
        sent = Event()
        self.schedule(sent.set)
        sent.wait()

    def _really_send(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if self.closed or not self._is_master_process() or _size(msg) < LARGE_BYTES:
            super()._really_send(msg, *args, **kwargs)
        else:
            self.socket.send_multipart(msg, copy=False, track=True).wait()


class BoundedOutStream(OutStream):
    """Text is passed on in pieces; who prints the next one waits for the one before."""

    # While the reader is slow, a flush takes as long as it takes.
    flush_timeout = None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting_chars = 0
        super().__init__(*args, **kwargs)

    def write(self, string: str) -> int | None:
        if not isinstance(string, str) or not self._is_master_process():
            return super().write(string)
        for piece in _pieces(string):
            super().write(piece)
            self._waiting_chars += len(piece)
            if self._waiting_chars >= PIECE_CHARS and current_thread() is not self.pub_thread.thread:
                self.flush()
        return len(string)

    def _rotate_buffers(self) -> Any:
        self._waiting_chars = 0
        return super()._rotate_buffers()


def _size(parts: Any) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= PIECE_CHARS:
        yield text
        return
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def bound_output(config: Any) -> None:
    """To be called while the kernel reads its configuration, before it opens its sockets."""
    kernelapp.IOPubThread = BoundedIOPubThread  # type: ignore[misc]
    config.IPKernelApp.outstream_class = f"{__name__}.BoundedOutStream"
