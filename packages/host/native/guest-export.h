/* What guest-init.c and guest-export.c have of each other. */
#pragma once

/* Says why on the console, and to whoever reads the export, and ends the machine. */
_Noreturn void fail(const char *what, const char *name);

/* From here on `device` gets a stream, and the reason when there is none. */
void begin_export(const char *device);
void export_tree(const char *tree);
/* Puts the reason where the stream would begin; nothing before `begin_export`. */
void export_failed(const char *reason);
