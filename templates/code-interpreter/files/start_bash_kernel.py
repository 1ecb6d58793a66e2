"""The Jupyter kernel of Bash: one interactive shell, which reads cells from a pipe.

The published bash_kernel types into a terminal and looks for the prompt in what comes back: 0.3 ms for each line of
output, an end that is never found after `PS1=x`, and a `read` that waits for ever. Here the shell tells on a
descriptor of its own how a cell ended. Programs still write to a terminal, so that their output comes line by line.
"""

import asyncio
import base64
import codecs
import fcntl
import json
import os
import pty
import selectors
import shlex
import signal
import struct
import subprocess
import termios
import time
import tty

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

SHELL = ["/bin/bash", "--noediting"]
FIRST_REPORT_DESCRIPTOR = 200
CHUNK_BYTES = 64 * 1024
MAX_TEXT = 64 * 1024
# No kernel holds more of what was written to a terminal and is not read.
TERMINAL_BYTES = 256 * 1024
BATCH_SECONDS = 0.02
START_SECONDS = 20
# What an interrupt does when the one before was not enough: this long after the request.
FORWARD_SECONDS, KILL_PROGRAMS_SECONDS, KILL_SHELL_SECONDS = 0.1, 0.5, 0.8

SETTINGS = r"""
PS1= PS2= PROMPT_COMMAND=; unset HISTFILE TMOUT; set +o history +H; history -c; shopt -u checkwinsize
__e2b_show() { builtin printf 'D %s %s\n' "$1" "$(base64 -w 0)" >&REPORT; }
display() {
  local file; file=$(mktemp); cat > "$file"
  __e2b_show "$(file --brief --mime-type "$file")" < "$file"; rm -f "$file"
}
displayHTML() { __e2b_show text/html; }
displayJS() { __e2b_show application/javascript; }
"""
# Silent code that begins so names, as JSON, directory and variables of the sandbox.
PREPARE = "#e2b.prepare "


class Shell:
    """One process of Bash. `events` yields what happens until the cell that was sent is over."""

    def __init__(self, options):
        self.output, terminal = pty.openpty()
        tty.setraw(terminal)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.reports, written = os.pipe()
        report = fcntl.fcntl(written, fcntl.F_DUPFD, FIRST_REPORT_DESCRIPTOR)
        self.process = subprocess.Popen(
            [*SHELL, *options, "-i"], stdin=subprocess.PIPE, stdout=terminal, stderr=terminal, pass_fds=(report,)
        )
        for descriptor in (terminal, written, report):
            os.close(descriptor)
        self.report = report
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.partial_report = b""
        for descriptor in (self.output, self.reports):
            os.set_blocking(descriptor, False)

    def send(self, code):
        """The last line is read also when an interrupt ends the others."""
        cell = shlex.quote(code.replace("\0", ""))
        run = f"builtin eval {cell} </dev/null; builtin printf 'S %s\\n' \"$?\" >&{self.report}; PS1= PS2="
        lines = f"{run}\nbuiltin printf 'E\\n' >&{self.report}\n"
        try:
            self.process.stdin.write(lines.encode("utf-8", "replace"))
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # Its end is seen by who waits for events.

    def read_output(self):
        """The next piece, which is empty for the beginning of a character. None when nothing waits, or will come."""
        try:
            return self.decoder.decode(os.read(self.output, CHUNK_BYTES))
        except OSError:
            return None

    def rest_of_output(self):
        """What programs have written until now; no more, because one in the background may never stop."""
        read = 0
        while read < TERMINAL_BYTES and (text := self.read_output()) is not None:
            read += len(text)
            yield text

    def read_reports(self):
        try:
            self.partial_report += os.read(self.reports, CHUNK_BYTES)
        except BlockingIOError:
            return []
        *lines, self.partial_report = self.partial_report.split(b"\n")
        return [line.decode("ascii", "replace").split(" ") for line in lines]

    def programs(self):
        """Ids of all processes below the shell."""
        parents = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                pass
        found, added = {self.process.pid}, True
        while added:
            added = {child for child, parent in parents.items() if parent in found} - found
            found |= added
        return found - {self.process.pid}

    def signal(self, processes, number):
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # It ended before it read all.
        self.process.kill()
        self.process.wait()
        for descriptor in (self.output, self.reports):
            os.close(descriptor)


class BashKernel(Kernel):
    implementation = "bash"
    implementation_version = "1.0"
    language = "bash"
    banner = "Bash"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}

    def __init__(self, **options):
        super().__init__(**options)
        self._wakeups, self._wake = os.pipe()
        os.set_blocking(self._wakeups, False)
        self._text, self._sent_at, self._is_silent = [], 0.0, True
        self._late = ""
        self._start_shell()

    def _start_shell(self):
        """A start-up file of the user's that ends the shell, or waits for what nobody types, is left out."""
        self._is_silent = True
        for options in ([], ["--norc"]):
            self._shell = Shell(options)
            self._shell.send(SETTINGS.replace("REPORT", str(self._shell.report)))
            status, _ = self._wait_for_end(time.monotonic() + START_SECONDS)
            if status is not None:
                return
            self._shell.close()
        raise RuntimeError("Bash does not start")

    def do_execute(self, code, silent, *_, **__):
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._shell.output)
        self._is_silent = silent
        if silent:
            self._remember(code)
        else:
            self._print(self._late)
            self._late = ""
        try:
            return self._run(code)
        finally:
            loop.add_reader(self._shell.output, self._read_late, loop)

    def _remember(self, code):
        """What the sandbox gives to a shell it gives to the one that follows when that ends."""
        if not code.startswith(PREPARE):
            return
        wanted = json.loads(code[len(PREPARE) :].partition("\n")[0])
        os.environ.update(wanted.get("env") or {})
        try:
            os.chdir(wanted.get("cwd") or ".")
        except OSError:
            pass  # It is gone; code still runs.

    def _read_late(self, loop):
        """Programs in the background do not wait for the next cell, which shows the end of what they print."""
        text = self._shell.read_output()
        if text is None:
            loop.remove_reader(self._shell.output)
        else:
            self._late = (self._late + text)[-MAX_TEXT:]

    def _run(self, code):
        while self._read_wakeup():
            pass
        woken_by = (signal.SIGINT, signal.SIGCHLD)
        wake = lambda number, _: os.write(self._wake, bytes([number]))  # noqa: E731
        before = [signal.signal(number, wake) for number in woken_by]
        try:
            self._shell.send(code)
            status, is_interrupted = self._wait_for_end(None)
        finally:
            for number, handler in zip(woken_by, before):
                signal.signal(number, handler)
        return self._reply(status, is_interrupted)

    def _reply(self, status, is_interrupted):
        count = self.execution_count
        if is_interrupted:
            name, value, text = "Interrupted", "Execution was interrupted", "Execution was interrupted"
        elif status == 0:
            return {"status": "ok", "execution_count": count, "payload": [], "user_expressions": {}}
        else:
            name, value, text = "ExitStatus", str(status), f"The last command ended with status {status}"
        error = {"ename": name, "evalue": value, "traceback": [text]}
        if not self._is_silent:
            self.send_response(self.iopub_socket, "error", error)
        return {"status": "error", "execution_count": count, **error}

    def _wait_for_end(self, until):
        """Answers with the status, None when there is none at that time, and whether the cell was interrupted."""
        shell, status, asked_at, is_over = self._shell, 130, None, False
        steps = [
            (FORWARD_SECONDS, lambda: shell.signal({shell.process.pid} | shell.programs(), signal.SIGINT)),
            (KILL_PROGRAMS_SECONDS, lambda: shell.signal(shell.programs(), signal.SIGKILL)),
            (KILL_SHELL_SECONDS, shell.process.kill),
        ]
        with selectors.DefaultSelector() as selector:
            for descriptor in (shell.output, shell.reports, self._wakeups):
                selector.register(descriptor, selectors.EVENT_READ)
            while not is_over:
                ready = {key.fd for key, _ in selector.select(self._timeout(asked_at, steps))}
                if shell.output in ready:
                    self._print(shell.read_output())
                for kind, *fields in shell.read_reports() if shell.reports in ready else []:
                    if kind == "S":
                        status = int(fields[0])
                    elif kind == "D":
                        self._show(*fields)
                    else:
                        is_over = True
                if self._wakeups in ready and signal.SIGINT in self._read_wakeup():
                    asked_at = asked_at or time.monotonic()
                while asked_at and steps and time.monotonic() >= asked_at + steps[0][0]:
                    steps.pop(0)[1]()
                has_ended = shell.process.poll() is not None
                if not is_over and until and (has_ended or time.monotonic() > until):
                    return None, False
                if not is_over and has_ended:
                    return self._restart_shell(), asked_at is not None
                self._flush_when_due()
        for text in shell.rest_of_output():
            self._print(text)
        self._flush()
        return status, asked_at is not None

    def _timeout(self, asked_at, steps):
        waits = [self._sent_at + BATCH_SECONDS - time.monotonic()] if self._text else []
        if asked_at and steps:
            waits.append(asked_at + steps[0][0] - time.monotonic())
        return max(0.0, min(waits)) if waits else 1.0

    def _restart_shell(self):
        """Answers with the status of the shell that ended."""
        for text in self._shell.rest_of_output():
            self._print(text)
        self._print("Restarting Bash\n")
        self._flush()
        ended, is_silent = self._shell, self._is_silent
        ended.close()
        self._start_shell()
        self._is_silent = is_silent
        return ended.process.returncode

    def _read_wakeup(self):
        try:
            return os.read(self._wakeups, 1024)
        except BlockingIOError:
            return b""

    def _print(self, text):
        if text and not self._is_silent:
            self._text.append(text)

    def _flush_when_due(self):
        if not self._text:
            return
        size = sum(map(len, self._text))
        if size >= MAX_TEXT or time.monotonic() >= self._sent_at + BATCH_SECONDS:
            self._flush()

    def _flush(self):
        text, self._text = "".join(self._text), []
        self._sent_at = time.monotonic()
        if text:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": text})

    def _show(self, mime_type, encoded):
        self._flush()
        is_text = mime_type.startswith("text/") or mime_type in ("image/svg+xml", "application/javascript")
        data = base64.b64decode(encoded).decode("utf-8", "replace") if is_text else encoded
        self.send_response(self.iopub_socket, "display_data", {"data": {mime_type: data}, "metadata": {}})

    def do_shutdown(self, restart):
        self._shell.signal(self._shell.programs(), signal.SIGTERM)
        self._shell.close()
        return {"status": "ok", "restart": restart}


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=BashKernel)
