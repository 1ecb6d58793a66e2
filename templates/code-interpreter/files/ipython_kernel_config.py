# Every Python kernel of the sandbox.
c = get_config()  # noqa: F821

c.InteractiveShellApp.extensions = ["e2b_charts.kernel"]
c.InteractiveShell.colors = "nocolor"
# Results are data: print them whole.
c.PlainTextFormatter.max_seq_length = 0
# History lives and ends with the kernel: no file that kernels share, no thread that writes it.
c.HistoryManager.enabled = False
# Text that is not Unicode is shown with replacements, instead of being lost with its message.
c.Session.packer = "e2b_charts.kernel.packing.pack"

from e2b_charts.kernel.output import bound_output  # noqa: E402

bound_output(c)
