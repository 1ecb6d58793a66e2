# Jupyter Server inside a sandbox: started by the agent, spoken to by the interpreter service alone. It starts, ends,
# interrupts and replaces kernels; what runs in them goes past it, from the service to the kernels' own sockets.
import ctypes
import os
import signal

from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

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

# Front ends that use the websocket all the same: no pings (they would misfire after a pause), no limit on output, and
# nothing kept for a listener that is away.
c.ServerApp.websocket_ping_interval = 0
c.ServerApp.websocket_ping_timeout = 0
c.ZMQChannelsWebsocketConnection.iopub_msg_rate_limit = 0
c.ZMQChannelsWebsocketConnection.iopub_data_rate_limit = 0
c.MappingKernelManager.buffer_offline_messages = False

# A kernel that died is noticed within a second.
c.KernelRestarter.time_to_dead = 1.0
c.KernelRestarter.random_ports_until_alive = False

PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)
server_pid = os.getpid()


def end_with_server():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:
        os._exit(1)


class SandboxKernelManager(AsyncMappingKernelManager):
    async def start_kernel(self, **options):
        # A server that is killed does not leave kernels behind that nobody knows.
        return await super().start_kernel(**options, preexec_fn=end_with_server)

    def start_watching_activity(self, kernel_id):
        # Watching would be a second reader of all output, for the sake of times that nobody asks for.
        self.get_kernel(kernel_id).execution_state = "idle"


c.ServerApp.kernel_manager_class = SandboxKernelManager
