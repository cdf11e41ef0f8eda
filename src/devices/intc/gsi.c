/* gsi.c - see gsi.h. */
#include "devices/intc/gsi.h"

#include "devices/intc/ioapic.h"
#include "devices/intc/pic.h"

void dp_gsi_input(void *router, unsigned n, bool level)
{
    struct dp_gsi_router *r = router;
    if (n == 2 || n >= DP_GSI_COUNT)
        return;
    if (n < 16 && r->pic)
        dp_pic_input(r->pic, n, level);
    dp_ioapic_input(r->ioapic, n == 0 ? DP_GSI_TIMER_PIN : n, level);
}
