/* vm/files.h - files that a VM reads: whole, and again at each reset what was opened. For vm.c. */
#ifndef DP_VM_FILES_H
#define DP_VM_FILES_H

#include "machine/boot/boot.h"

struct vm_file {
    char *name;
    int fd; /* -1: none */
};

/* what: for messages. Only regular files. */
int vm_file_open(const char *what, const char *path, struct vm_file *f, struct dp_error *e) DP_MUST_CHECK;
void vm_file_close(struct vm_file *f);
/* The whole file as it is now; the blob's data is the caller's to free. */
int vm_file_read(const char *what, const struct vm_file *f, uint64_t limit, struct dp_boot_blob *blob, struct dp_error *e) DP_MUST_CHECK;
/* All of it; 16 MiB at most. */
int vm_read_whole(const char *what, const char *path, struct dp_boot_blob *out, struct dp_error *e) DP_MUST_CHECK;

#endif
