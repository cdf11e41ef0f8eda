/* display/edid.h - what a monitor tells about itself: one block of EDID 1.4, for graphics devices.
 *
 * Model: a monitor of 96 dots per inch, sRGB, whose preferred timing is the given size at 60 Hz by the reduced blanking of CVT; slower
 * where the pixel clock would not fit. Standard and established timings name the usual smaller sizes.
 * Source: VESA E-EDID Standard, Release A2 (EDID 1.4), section 3; VESA Coordinated Video Timings 1.1, section 5 (reduced blanking).
 */
#ifndef DP_DISPLAY_EDID_H
#define DP_DISPLAY_EDID_H

#include "base/base.h"

enum { DP_EDID_SIZE = 128, DP_EDID_MAX = 4095 /* what its 12 bits hold, in each direction */ };

/* width and height are cut to 64..DP_EDID_MAX. name: up to 13 characters are told. */
void dp_display_edid(uint8_t out[DP_EDID_SIZE], const char *name, uint32_t width, uint32_t height);

#endif
