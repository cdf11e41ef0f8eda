/* cli/network.h - between the verbs of `doppel network`. */
#ifndef DP_CLI_NETWORK_H
#define DP_CLI_NETWORK_H

#include "cli/options.h"


#endif
