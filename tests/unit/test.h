/* test.h - what every cmocka test includes, in the order cmocka wants, and a few shorthands. */
#ifndef DP_TEST_H
#define DP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

/* Fails with the error's text when r is not 0. */
#define assert_ok(r, e) do { if ((r) < 0) fail_msg("%s", (e).text); } while (0)

#endif
