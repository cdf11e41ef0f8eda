/* program_world.c - the pages of programs, for both sides. */
#include "program.h"

const struct prog_page prog_page[PROG_PAGES] = {
    {3, true},  {0, true},   {5, true}, {3, true}, /* the first again */
    {1, false}, {-1, false}, {2, true}, {4, true}, {5, false} /* read-only alias of the third */, {6, true}, {6, false}, {-1, false},
};
