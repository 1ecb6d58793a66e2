"""`with_output_pipes.py PROGRAM ARGUMENT...` becomes that program, with pipes as its standard output and error, and two
more arguments: the descriptors from which it reads them itself. For a program that cannot replace its own streams."""

import os
import sys

read_ends = []
for stream in (1, 2):
    read_end, write_end = os.pipe()
    os.dup2(write_end, stream)
    os.close(write_end)
    os.set_inheritable(read_end, True)
    read_ends.append(str(read_end))
os.execv(sys.argv[1], [*sys.argv[1:], *read_ends])
