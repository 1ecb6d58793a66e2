"""The Bash kernel without the 50 ms that pexpect waits before each line it sends.

The wait is for programs that switch the terminal's echo off; here it is off from the start. Forty lines are sent
when the kernel starts, and one or more for each execution.
"""

from bash_kernel.kernel import BashKernel
from ipykernel.kernelapp import IPKernelApp
from pexpect.spawnbase import SpawnBase

initialize = SpawnBase.__init__


def initialize_without_delay(self, *arguments, **options):
    initialize(self, *arguments, **options)
    self.delaybeforesend = None


SpawnBase.__init__ = initialize_without_delay
IPKernelApp.launch_instance(kernel_class=BashKernel)
