# Every Python kernel of the sandbox.
c = get_config()  # noqa: F821

c.InteractiveShellApp.extensions = ["e2b_charts.kernel"]
c.InteractiveShell.colors = "nocolor"
# Results are data: print them whole.
c.PlainTextFormatter.max_seq_length = 0
# History lives and ends with the kernel: no file that kernels share, no thread that writes it.
c.HistoryManager.enabled = False

# Output is never dropped: by default a kernel that prints faster than it is read loses lines past 1,000.
import zmq  # noqa: E402

_make_socket = zmq.Context.socket


def _socket_without_bound(context, *args, **options):
    socket = _make_socket(context, *args, **options)
    socket.sndhwm = 0
    return socket


zmq.Context.socket = _socket_without_bound
