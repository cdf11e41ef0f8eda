/* cli/board.h - options of `doppel run` about what a PC with firmware is and tells of itself. */
#ifndef DP_CLI_BOARD_H
#define DP_CLI_BOARD_H

#include "cli/options.h"
#include "console/wav.h"
#include "vm/vm.h"

struct cli_board {
    const char *uuid, *vmgenid, *speaker;
    struct cli_list fw_cfg;
};

/* Into c. Paths and texts of c point into storage, which cli_board_fini releases once the VM is made. pc: the machine has firmware. */
struct cli_board_storage {
    char *text[3 * CLI_LIST_MAX]; /* a file has three values at most */
    unsigned count;
};
int cli_board_parse(const struct cli_board *b, bool pc, struct dp_vm_config *c, struct cli_board_storage *storage,
                    struct dp_error *e) DP_MUST_CHECK;
void cli_board_fini(struct cli_board_storage *storage);
/* "file:PATH" into a file of sound. */
int cli_board_speaker(const char *where, struct dp_wav **out, struct dp_error *e) DP_MUST_CHECK;

#endif
