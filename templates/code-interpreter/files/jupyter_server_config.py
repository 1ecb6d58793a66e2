# Jupyter Server inside a sandbox: started by the agent, spoken to by the interpreter service alone.
from jupyter_server.serverapp import ServerApp

c = get_config()  # noqa: F821

# A Unix socket of the sandbox's user instead of a port: nobody outside reaches it, so no token is needed, and its
# connections are part of a memory snapshot, where TCP connections are cut. The kernels' sockets likewise.
c.ServerApp.sock = "/opt/e2b/run/jupyter.sock"
c.KernelManager.transport = "ipc"
c.IdentityProvider.token = ""
c.ServerApp.disable_check_xsrf = True
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/home/user"
c.ServerApp.log_level = "ERROR"

# Nothing but kernels is served.
ServerApp.default_services = ("api", "kernels", "kernelspecs")
c.ServerApp.terminals_enabled = False
c.ServerApp.jpserver_extensions = {"jupyter_server_terminals": False}

# Both ends live in one sandbox: no pings (they would misfire after a pause), no limit on output, and nothing kept
# for a listener that is away.
c.ServerApp.websocket_ping_interval = 0
c.ServerApp.websocket_ping_timeout = 0
c.ZMQChannelsWebsocketConnection.iopub_msg_rate_limit = 0
c.ZMQChannelsWebsocketConnection.iopub_data_rate_limit = 0
c.MappingKernelManager.buffer_offline_messages = False

# A kernel that died is noticed within a second.
c.KernelRestarter.time_to_dead = 1.0
c.KernelRestarter.random_ports_until_alive = False

# ZeroMQ drops what does not fit into 1,000 waiting messages, the end of an execution included: no bound on what is
# received, the memory limit of the sandbox is the bound.
import zmq  # noqa: E402

_make_socket = zmq.Context.socket


def _socket_without_bound(context, *args, **options):
    socket = _make_socket(context, *args, **options)
    socket.rcvhwm = 0
    return socket


zmq.Context.socket = _socket_without_bound
